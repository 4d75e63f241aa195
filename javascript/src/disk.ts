// SPDX-License-Identifier: Apache-2.0
/** Files on a disk, in Node: the model, and the files beside it that hold weights. */

import { FileError, reasonOf } from "./errors.ts";
import { shown } from "./words.ts";

const fs = process.getBuiltinModule("node:fs/promises");
const paths = process.getBuiltinModule("node:path");

/**
 * The content and the path of a file.
 *
 * @throws FileError it cannot be read, or is a folder, a pipe or a device.
 */
export async function readFile(
  file: string | URL,
): Promise<{ data: Uint8Array; source: string; path: string }> {
  const isUrl = file instanceof URL || /^file:/i.test(file);
  const path = isUrl ? process.getBuiltinModule("node:url").fileURLToPath(file) : file;
  let kind: string;
  try {
    const info = await fs.stat(path);
    if (info.isFile()) return { data: await fs.readFile(path), source: path, path };
    kind = info.isDirectory() ? "a folder" : "a pipe or a device";
  } catch (error) {
    const isAbsent = (error as { code?: string }).code === "ENOENT";
    const reason = isAbsent ? "No such file or directory" : reasonOf(error);
    throw new FileError(`${path} could not be read: ${reason}.`, { cause: error });
  }
  throw new FileError(`${path} is ${kind}; an ONNX file was expected.`);
}

/**
 * Refuses files beside a model that are not there, or not whole.
 *
 * @param model the path of the model.
 * @param beside by the name of a file, the least number of bytes that it must have.
 * @throws FileError a file is outside the model's folder, missing or too short.
 */
export async function checkBeside(
  model: string,
  beside: ReadonlyMap<string, number>,
): Promise<void> {
  for (const [name, end] of beside) {
    const size = await sizeBeside(model, name);
    if (size < end) {
      throw new FileError(
        `${model} keeps weights in ${shown(name)}, which has ${size} bytes where ${end} are ` +
          "needed. It may be cut off; copy the files together.",
      );
    }
  }
}

/** The size of a file in the folder of the model's real file, or below. */
async function sizeBeside(model: string, name: string): Promise<number> {
  const folder = paths.dirname(await fs.realpath(model));
  const wanted = paths.resolve(folder, name);
  const isInside = (file: string): boolean => file.startsWith(folder + paths.sep);

  let problem = "lies outside its own folder";
  if (isInside(wanted) && !paths.isAbsolute(name)) {
    const target = await fs.realpath(wanted).catch(() => undefined);
    const info = target && isInside(target) ? await fs.stat(target) : undefined;
    if (info?.isFile()) return info.size;
    if (!target || info) problem = "is not there";
  }
  throw new FileError(
    `${model} keeps weights in ${shown(name)}, which ${problem}. Its external data must stand ` +
      "beside it: copy the files together, or export it again.",
  );
}
