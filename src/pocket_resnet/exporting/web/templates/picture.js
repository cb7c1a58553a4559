// From a picture file to the bytes of its centre square. The network's own graph resizes them.

const MAX_FILE_BYTES = 64 * 2 ** 20;
const STRIP_ROWS = 64; // large pictures are read in strips, which keeps the canvas small

/** An error whose message is for the visitor. */
class VisitorError extends Error {}

/** The picture, upright, with its colours as stored, as the training pictures were read. */
async function decode(source) {
  if (source.size > MAX_FILE_BYTES) throw new VisitorError("This file is larger than 64 MB.");
  try {
    return await createImageBitmap(source, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new VisitorError("This browser cannot read that file as a picture. JPEG, PNG, WebP, GIF and BMP work.");
  }
}

/**
 * The centre square as RGB bytes on white, `side` pixels wide and high. A large one is the mean of blocks of `step` x
 * `step` pixels, as many as leave `smallestSide`.
 */
function readSquare(bitmap, smallestSide) {
  const whole = Math.min(bitmap.width, bitmap.height);
  const step = Math.max(1, Math.floor(whole / smallestSide));
  const side = Math.floor(whole / step);
  const width = side * step;
  const left = Math.floor((bitmap.width - width) / 2);
  const top = Math.floor((bitmap.height - width) / 2);

  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = STRIP_ROWS * step;
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.fillStyle = "white";

  const rgb = new Uint8Array(side * side * 3);
  for (let row = 0; row < side; row += STRIP_ROWS) {
    const height = Math.min(STRIP_ROWS, side - row) * step;
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, left, top + row * step, width, height, 0, 0, width, height);
    const strip = context.getImageData(0, 0, width, height).data;
    rgb.set(averageBlocks(strip, width, height, step), row * side * 3);
  }
  return { rgb, side, step };
}

/** RGBA pixels as RGB, each the mean of a block of `step` x `step`. */
function averageBlocks(rgba, width, height, step) {
  const columns = width / step;
  const rgb = new Uint8Array((columns * height * 3) / step);
  for (let y = 0, to = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        for (let dy = 0; dy < step; dy++) {
          for (let dx = 0; dx < step; dx++) sum += rgba[((y + dy) * width + x + dx) * 4 + channel];
        }
        rgb[to++] = Math.round(sum / step ** 2);
      }
    }
  }
  return rgb;
}
