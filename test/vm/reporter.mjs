// A vitest reporter for the virtual machine: writes `{passed, failed: [name], skipped: [{name, reason}], files}` to the file that
// BERTH_VM_REPORT names, and a line for every test as it ends. Tests that no `-t` chose are none.

import { writeFileSync } from "node:fs";

// biome-ignore lint/style/noDefaultExport: vitest takes a reporter from the default export
export default class VmReporter {
  #report = { passed: 0, failed: [], skipped: [], files: 0 };

  onTestCaseResult(test) {
    const { state, note, errors } = test.result();
    const name = `${test.module.relativeModuleId} > ${test.fullName}`;
    const seconds = ((test.diagnostic()?.duration ?? 0) / 1000).toFixed(1);
    if (state === "passed") {
      this.#report.passed++;
      process.stdout.write(`passed: ${name} (${seconds} s)\n`);
    } else if (state === "failed") {
      this.#report.failed.push(name);
      process.stdout.write(`failed: ${name} (${seconds} s)\n`);
      for (const error of errors ?? []) process.stdout.write(`${error.stack ?? error.message}\n${error.diff ?? ""}\n`);
    } else {
      const reason = note ?? (test.options.mode === "todo" ? "not written yet" : null);
      if (reason === null) return;
      this.#report.skipped.push({ name, reason });
      process.stdout.write(`skipped: ${name}: ${reason}\n`);
    }
    this.#write();
  }

  onTestModuleEnd(module) {
    this.#report.files++;
    // What fails outside of a test: loading the file, its hooks.
    for (const error of [...module.errors(), ...[...module.children.allSuites()].flatMap((suite) => suite.errors())]) {
      this.#report.failed.push(module.relativeModuleId);
      process.stdout.write(`failed: ${module.relativeModuleId}: ${error.stack ?? error.message}\n`);
    }
    this.#write();
  }

  onTestRunEnd(_modules, errors) {
    for (const error of errors) {
      this.#report.failed.push("vitest");
      process.stdout.write(`failed: vitest: ${error.stack ?? error.message}\n`);
    }
    this.#write();
  }

  #write() {
    writeFileSync(process.env.BERTH_VM_REPORT, JSON.stringify(this.#report));
  }
}
