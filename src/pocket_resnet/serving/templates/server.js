// The network of this page, run by the server that the page comes from.

/** Nothing to load; see page.js. */
async function loadNetwork() {
  return { status: "Ready", classify };
}

async function classify(bitmap, source) {
  const picture = source instanceof Blob ? source : await pngOf(bitmap); // a sample is an image on the page
  const start = performance.now();
  const headers = { "Content-Type": "application/octet-stream" };
  const request = fetch(`/v1/predict?top=${MAX_BARS}`, { method: "POST", headers, body: picture });
  const response = await request.catch(() => {
    throw new VisitorError("The server does not answer.");
  });
  const answer = await response.json();
  if (!response.ok) throw new VisitorError([answer.error, answer.hint, answer.id].filter(Boolean).join("; "));
  const milliseconds = performance.now() - start;
  return { classes: answer.predictions[0].top, seen: smallSquare(bitmap), milliseconds };
}

function pngOf(bitmap) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** The centre square on white at the network's size. The server's own resize is slightly different. */
function smallSquare(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = imageSize;
  const context = canvas.getContext("2d", { alpha: false });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, imageSize, imageSize);
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [Math.floor((bitmap.width - side) / 2), Math.floor((bitmap.height - side) / 2)];
  context.drawImage(bitmap, left, top, side, side, 0, 0, imageSize, imageSize);
  return context.getImageData(0, 0, imageSize, imageSize);
}
