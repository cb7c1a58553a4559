// What the visitor does, and what the page shows.

const MAX_BARS = 10;
const SHOWN_SIDE_PX = 960;
const { classNames, imageSize } = JSON.parse(document.getElementById("model").textContent);
const find = (id) => document.getElementById(id);
const smallestSide = Math.max(1024, 4 * imageSize); // the network's own resize does the rest
let latest = 0; // only the latest picture is shown, however long an earlier one takes

const loadingStarted = performance.now();
const network = loadNetwork().catch(({ message }) => {
  throw new VisitorError(`This browser cannot run the network (${message}). Chrome, Edge, Firefox and Safari since 2023 can.`);
});
network.then(
  () => {
    find("status").textContent = `Ready, loaded in ${((performance.now() - loadingStarted) / 1000).toFixed(1)} s`;
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
    const classify = await network;
    if (turn !== latest) return;
    const { rgb, side, step } = readSquare(bitmap, smallestSide);
    const result = await classify(rgb, side);
    if (turn !== latest) return;
    drawPicture(bitmap, name);
    drawSeen(result);
    listClasses(result.probabilities);
    find("time").textContent = `${result.milliseconds.toFixed(1)} ms`;
    const averaged = step > 1 ? `, averaged in blocks of ${step} × ${step} first` : "";
    find("size").textContent = `${bitmap.width} × ${bitmap.height} pixels${averaged}`;
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

/** The network's input: `seen` has all reds, then all greens, then all blues. */
function drawSeen({ seen, seenSide }) {
  const canvas = find("seen");
  canvas.width = canvas.height = seenSide;
  const pixels = new ImageData(seenSide, seenSide);
  const area = seenSide ** 2;
  for (let i = 0; i < area; i++) {
    pixels.data.set([seen[i], seen[area + i], seen[2 * area + i], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** The most probable classes as bars, and one sentence for screen readers. */
function listClasses(probabilities) {
  const ranked = Array.from(probabilities, (probability, index) => ({ name: classNames[index], probability }));
  ranked.sort((a, b) => b.probability - a.probability);
  find("best").textContent = ranked[0].name;
  find("best-probability").textContent = percent(ranked[0].probability);
  find("classes").replaceChildren(...ranked.slice(0, MAX_BARS).map(bar));
  const rest = ranked.slice(MAX_BARS);
  const restSum = rest.reduce((sum, { probability }) => sum + probability, 0);
  find("rest").textContent = rest.length ? `${rest.length} more classes: ${percent(restSum)} together` : "";
  const [first, second] = ranked.map(({ name, probability }) => `${name}, ${percent(probability)}`);
  find("summary").textContent = `Most probable: ${first}. Then: ${second}.`;
}

function bar({ name, probability }) {
  const row = find("bar").content.cloneNode(true);
  row.querySelector(".name").textContent = name;
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

find("licences").addEventListener("toggle", async () => {
  find("licence-text").textContent ||= new TextDecoder().decode(await unpack("notices"));
});
