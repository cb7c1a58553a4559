// What the visitor does, and what the page shows. The page's network is in another script, whose `loadNetwork` gives:
// - status: text for the visitor
// - classify(bitmap, source): resolves to {classes, seen, milliseconds, note}: the MAX_BARS most probable classes in
//   order, [{label, probability}]; the network's input as ImageData; the time taken; words about the picture, if any

const MAX_BARS = 10;
const SHOWN_SIDE_PX = 960;
const { classNames, imageSize } = JSON.parse(document.getElementById("model").textContent);
const find = (id) => document.getElementById(id);
let latest = 0; // only the latest picture is shown, however long an earlier one takes

const network = loadNetwork();
network.then(
  ({ status }) => {
    find("status").textContent = status;
    document.body.classList.add("ready");
  },
  (error) => {
    find("status").textContent = "Not loaded";
    fail(error.message);
  },
);

/** Classify a picture (a file, or an image on this page) and show the result. */
async function show(source, name) {
  const turn = ++latest;
  find("error").hidden = true;
  document.body.classList.add("busy");
  let bitmap;
  try {
    bitmap = await decode(source);
    const { classify } = await network;
    if (turn !== latest) return;
    const { classes, seen, milliseconds, note = "" } = await classify(bitmap, source);
    if (turn !== latest) return;
    drawPicture(bitmap, name);
    drawSeen(seen);
    listClasses(classes);
    find("time").textContent = `${milliseconds.toFixed(1)} ms`;
    find("size").textContent = `${bitmap.width} × ${bitmap.height} pixels${note}`;
    document.body.classList.add("classified");
    find("headline").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (turn === latest) fail(error instanceof VisitorError ? error.message : `Something went wrong: ${error.message}`);
  } finally {
    bitmap?.close(); // a large one is not left to the garbage collector
    if (turn === latest) document.body.classList.remove("busy");
  }
}

function fail(message) {
  find("error").textContent = message;
  find("error").hidden = false;
}

/** The whole picture, with everything but the centre square dimmed. */
function drawPicture(bitmap, name) {
  const canvas = find("picture");
  const { width, height } = bitmap;
  const scale = Math.min(1, SHOWN_SIDE_PX / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const side = Math.min(canvas.width, canvas.height);
  const [left, top] = [(canvas.width - side) / 2, (canvas.height - side) / 2];
  context.fillStyle = "rgb(0 0 0 / 60%)";
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(left, top, side, side);
  context.fill("evenodd");
  canvas.setAttribute("aria-label", `Picture: ${name}`);
  canvas.classList.toggle("small", Math.max(width, height) < 200);
}

/** The network's input. */
function drawSeen(pixels) {
  const canvas = find("seen");
  canvas.width = canvas.height = imageSize;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** The most probable classes as bars, and one sentence for screen readers. */
function listClasses(classes) {
  find("best").textContent = classes[0].label;
  find("best-probability").textContent = percent(classes[0].probability);
  find("classes").replaceChildren(...classes.map(bar));
  const numMore = classNames.length - classes.length;
  const rest = classes.reduce((left, { probability }) => left - probability, 1);
  find("rest").textContent = numMore ? `${numMore} more classes: ${percent(Math.max(0, rest))} together` : "";
  const [first, second] = classes.map(({ label, probability }) => `${label}, ${percent(probability)}`);
  find("summary").textContent = `Most probable: ${first}. Then: ${second}.`;
}

function bar({ label, probability }) {
  const row = find("bar").content.cloneNode(true);
  row.querySelector(".name").textContent = label;
  row.querySelector(".fill").style.width = `${100 * probability}%`;
  row.querySelector(".percent").textContent = percent(probability);
  return row;
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}%`;
}

/** Show the first picture of a drop, a paste or a choice. */
function showFirst(files) {
  const file = Array.from(files).find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (!file) return fail("There was no picture in that. Save it as a file first, then choose the file.");
  press(null);
  show(file, file.name);
}

/** Mark the sample's button as the chosen one, and no other. */
function press(button) {
  for (const each of document.querySelectorAll("#samples button")) each.setAttribute("aria-pressed", each === button);
}

for (const input of [find("file"), find("camera")]) {
  input.addEventListener("change", () => {
    if (input.files.length) showFirst(input.files);
    input.value = ""; // choosing the same file again counts
  });
}
find("stage").addEventListener("click", () => find("file").click());

for (const button of document.querySelectorAll("#samples button")) {
  button.addEventListener("click", () => {
    press(button);
    const image = button.querySelector("img");
    show(image, image.alt);
  });
}

document.addEventListener("paste", (event) => showFirst(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  showFirst(event.dataTransfer.files);
});
