// A vitest reporter that prints every test that did not run, with its reason: what the test gave to `context.skip(reason)`.
// The json reporter counts skipped tests but does not carry their reasons.

export default class SkipReporter {
  onTestRunEnd(modules) {
    for (const module of modules) {
      for (const test of module.children.allTests("skipped")) {
        const mode = test.options.mode === "todo" ? "not written yet" : null;
        const reason = test.result().note ?? mode ?? "no reason given";
        process.stdout.write(`skipped: ${module.relativeModuleId ?? module.moduleId} > ${test.fullName}: ${reason}\n`);
      }
    }
  }
}
