// SPDX-License-Identifier: Apache-2.0
/** Has Python export the files that the tests run, into a temporary folder. */

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  export interface ProvidedContext {
    folder: string;
    python: string;
  }
}

const repository = fileURLToPath(new URL("../..", import.meta.url));

export default function setup(project: TestProject): () => void {
  const own = join(repository, ".venv/bin/python");
  const python = process.env.STATEPORT_PYTHON ?? (existsSync(own) ? own : "python3");
  project.provide("python", python);
  const made = process.env.STATEPORT_FILES;
  if (made) {
    project.provide("folder", made);
    return () => undefined;
  }

  const folder = mkdtempSync(join(tmpdir(), "stateport-js-"));
  execFileSync(python, ["-m", "tests.javascript.make_files", folder], {
    cwd: repository,
    stdio: "inherit",
  });
  project.provide("folder", folder);
  return () => rmSync(folder, { recursive: true });
}
