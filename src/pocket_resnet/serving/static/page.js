// Takes a picture that is chosen, dropped or pasted, has the server classify it, and shows the classes as bars.

const NUM_SHOWN = 10;
const element = (id) => document.getElementById(id);
let latest = 0; // an answer to an earlier picture is not shown

// The classes of a picture, most probable first: [{label, probability}, ...].
async function classify(picture) {
  const response = await fetch(`/v1/predict?top=${NUM_SHOWN}`, {
    method: "POST",
    headers: { "Content-Type": picture.type || "application/octet-stream" },
    body: picture,
  });
  const answer = await response.json();
  if (!response.ok) throw new Error([answer.error, answer.hint, answer.id].filter(Boolean).join("; "));
  return answer.predictions[0].top;
}

// Names are set as text: they may contain anything.
function showClasses(classes) {
  element("classes").replaceChildren(
    ...classes.map(({ label, probability }) => {
      const [row, name, share, bar] = ["li", "span", "span", "progress"].map((tag) => document.createElement(tag));
      name.textContent = label;
      share.textContent = `${(100 * probability).toFixed(1)}%`;
      bar.value = probability;
      bar.setAttribute("aria-hidden", "true");
      row.append(name, share, bar);
      return row;
    }),
  );
}

function showPreview(picture) {
  const preview = element("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(picture);
  preview.hidden = false;
}

async function take(picture) {
  if (!picture) return;
  const number = ++latest;
  showPreview(picture);
  showClasses([]);
  element("status").textContent = "Classifying …";
  const start = performance.now();
  try {
    const classes = await classify(picture);
    if (number !== latest) return;
    showClasses(classes);
    element("status").textContent = `Answered in ${Math.round(performance.now() - start)} ms.`;
  } catch (error) {
    if (number === latest) element("status").textContent = `Not classified: ${error.message}`;
  }
}

element("file").addEventListener("change", (event) => take(event.target.files[0]));
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
