// The network of this page, run on the visitor's device by ONNX Runtime Web.

/** The bytes of one part of the page, stored as base64 of gzip. */
async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

/** Load the network. The result classifies a square of RGB bytes, `side` pixels wide and high. */
async function loadNetwork() {
  const [runtime, wasm, network] = await Promise.all(["runtime", "wasm", "network"].map(unpack));
  const address = URL.createObjectURL(new Blob([runtime], { type: "text/javascript" }));
  const ort = await import(address);
  URL.revokeObjectURL(address);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });

  async function classify(rgb, side) {
    const start = performance.now();
    const { probabilities, resized } = await session.run({ images: new ort.Tensor("uint8", rgb, [1, side, side, 3]) });
    const milliseconds = performance.now() - start;
    return { probabilities: probabilities.data, seen: resized.data, seenSide: resized.dims[2], milliseconds };
  }

  await classify(new Uint8Array(3), 1); // the first run is slower than all others
  return classify;
}
