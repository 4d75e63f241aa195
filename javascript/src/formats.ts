// SPDX-License-Identifier: Apache-2.0
/** Files of other formats that are passed in place of an ONNX file. */

const EXPORT = "Export its network with `stateport export`, and pass the ONNX file.";
const PACK = "Unpack it, and pass the ONNX file.";
const ARRAYS = "Pass the model's ONNX file; arrays go where the inputs go.";
const CONVERT = "Convert the network to ONNX first.";
const DOWNLOAD = "Download the file itself.";

/** Where a text stands in the file, the text, what the file is, and what to do. */
const FORMATS: readonly (readonly [number, string, string, string])[] = [
  [0, "\x80\x02", "a pickle, as older versions of PyTorch wrote checkpoints", EXPORT],
  [0, "\x89HDF", "an HDF5 file, as Keras writes networks", CONVERT],
  [0, "version https://git-lfs", "a pointer of Git LFS", "Fetch the file itself: git lfs pull."],
  [0, "GGUF", "a GGUF file", CONVERT],
  [0, "\x93NUMPY", "an array of NumPy", ARRAYS],
  [0, "\x1f\x8b", "a gzip archive", PACK],
  [
    0,
    "<?xml",
    "an XML file, as OpenVINO writes networks",
    "Pass the ONNX file it was made from.",
  ],
  [0, "<!DOCTYPE", "a web page", DOWNLOAD],
  [0, "<html", "a web page", DOWNLOAD],
  [4, "ORTM", "a file of ONNX Runtime's own format", "Pass the ONNX file it was made from."],
  [4, "TFL3", "a TensorFlow Lite file", CONVERT],
  [8, '{"', "a safetensors file: weights, a state or vectors", EXPORT],
];
const ENDS = 1 << 16;

/** What a file is that is not ONNX, and what to do; undefined where its format is not known. */
export function otherFormat(data: Uint8Array): string | undefined {
  const start = latin1(data.subarray(0, 64));
  const format = start.startsWith("PK\x03\x04")
    ? zipFormat(data)
    : FORMATS.find(([at, text]) => start.startsWith(text, at))?.slice(2);
  return format && `is ${format[0]}; an ONNX file was expected. ${format[1]}`;
}

/** The format of a zip archive, from the names in its directory. Nothing is unpacked. */
function zipFormat(data: Uint8Array): readonly [string, string] {
  const directory = latin1(data.subarray(-ENDS));
  if (!directory.includes("PK\x05\x06")) {
    return ["a zip archive that is cut off", "Copy it again."];
  }
  if (directory.includes("/constants.pkl")) return ["a TorchScript network", EXPORT];
  if (directory.includes("/data.pkl")) return ["a PyTorch checkpoint", EXPORT];
  if (directory.includes(".npy")) return ["an archive of NumPy's arrays", ARRAYS];
  return ["a zip archive", PACK];
}

function latin1(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}
