// Runs psp.onnx, an engine for pictures, with onnxruntime-web: uint8 RGB [1,256,256,3] in, uint8 RGB [1,H,W,3] out.

const $ = (id) => document.getElementById(id);

function say(words, isError = false) {
  $("status").textContent = words;
  $("status").className = isError ? "error" : "";
}

// The middle square of a picture, as the engine wants it.
async function readPicture(file) {
  const picture = await createImageBitmap(file);
  const side = Math.min(picture.width, picture.height);
  const [left, top] = [(picture.width - side) / 2, (picture.height - side) / 2];
  const context = $("input").getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // behind transparent pixels
  context.fillRect(0, 0, 256, 256);
  context.drawImage(picture, left, top, side, side, 0, 0, 256, 256);
  return withoutAlpha(context.getImageData(0, 0, 256, 256).data);
}

function withoutAlpha(rgba) {
  return Uint8Array.from({ length: (rgba.length / 4) * 3 }, (_, i) => rgba[Math.floor(i / 3) * 4 + (i % 3)]);
}

function show(rgb, [, height, width]) {
  const picture = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    picture.data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
  }
  Object.assign($("output"), { width, height });
  $("output").getContext("2d").putImageData(picture, 0, 0);
}

// Styles to mix in, and how much of them in each layer: none.
function noMixing(ort, session) {
  const style = session.inputMetadata[session.inputNames.indexOf("style")];
  const [, layers, width] = style.shape;
  return {
    style: new ort.Tensor("float32", new Float32Array(layers * width), [1, layers, width]),
    alpha: new ort.Tensor("float32", new Float32Array(layers), [1, layers]),
  };
}

async function translate(ort, session, file) {
  const image = new ort.Tensor("uint8", await readPicture(file), [1, 256, 256, 3]);
  say("Working…");
  const start = performance.now();
  const { output } = await session.run({ image, ...noMixing(ort, session) });
  show(output.data, output.dims);
  say(`Done in ${((performance.now() - start) / 1000).toFixed(1)} s.`);
}

async function main() {
  const ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
  const session = await ort.InferenceSession.create("psp.onnx", { executionProviders: ["wasm"] });
  $("picture").addEventListener("change", ({ target }) => {
    translate(ort, session, target.files[0]).catch((error) => say(`This picture could not be used: ${error}`, true));
  });
  $("picture").disabled = false;
  say("Ready.");
}

main().catch((error) => say(`The engine could not be opened: ${error}`, true));
