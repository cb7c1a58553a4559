// The network of this page, run on the visitor's device by ONNX Runtime Web.

/** The bytes of one part of the page, stored as base64 of gzip. */
async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

/** Load the network; see page.js. */
async function loadNetwork() {
  const start = performance.now();
  try {
    const run = await startRuntime();
    await run(new Uint8Array(3), 1); // the first run is slower than all others
    const seconds = (performance.now() - start) / 1000;
    return { status: `Ready, loaded in ${seconds.toFixed(1)} s`, classify: (bitmap) => classifyBitmap(run, bitmap) };
  } catch ({ message }) {
    throw new VisitorError(`This browser cannot run the network (${message}). Chrome, Edge, Firefox and Safari since 2023 can.`);
  }
}

/** A function that runs the network on a square of RGB bytes, `side` pixels wide and high. */
async function startRuntime() {
  const [runtime, wasm, network] = await Promise.all(["runtime", "wasm", "network"].map(unpack));
  const address = URL.createObjectURL(new Blob([runtime], { type: "text/javascript" }));
  const ort = await import(address);
  URL.revokeObjectURL(address);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  return (rgb, side) => session.run({ images: new ort.Tensor("uint8", rgb, [1, side, side, 3]) });
}

async function classifyBitmap(run, bitmap) {
  const smallestSide = Math.max(1024, 4 * imageSize); // the network's own resize does the rest
  const { rgb, side, step } = readSquare(bitmap, smallestSide);
  const start = performance.now();
  const { probabilities, resized } = await run(rgb, side);
  const milliseconds = performance.now() - start;
  const classes = Array.from(probabilities.data, (probability, index) => ({ label: classNames[index], probability }));
  classes.sort((a, b) => b.probability - a.probability);
  const note = step > 1 ? `, averaged in blocks of ${step} × ${step} first` : "";
  return { classes: classes.slice(0, MAX_BARS), seen: interleaved(resized.data), milliseconds, note };
}

/** All reds, then all greens, then all blues, as an image. */
function interleaved(planes) {
  const pixels = new ImageData(imageSize, imageSize);
  const area = imageSize ** 2;
  for (let i = 0; i < area; i++) {
    pixels.data.set([planes[i], planes[area + i], planes[2 * area + i], 255], 4 * i);
  }
  return pixels;
}

document.getElementById("licences").addEventListener("toggle", async () => {
  document.getElementById("licence-text").textContent ||= new TextDecoder().decode(await unpack("notices"));
});
