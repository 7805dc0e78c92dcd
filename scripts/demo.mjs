// npm run demo [-- --keep]: from nothing to a pod. Installs what is missing, builds, then runs test/support/demo.ts in a network
// namespace of its own, so that bridge, addresses and NAT rules never touch the host's network.

import { existsSync } from "node:fs";
import { build, runnable } from "./build.mjs";
import { at, Failure, isRoot, main, run, say } from "./project.mjs";
import { setup } from "./setup.mjs";

main(import.meta, async (args) => {
  if (!isRoot) throw new Failure("demo: runs containers and needs root: sudo npm run demo");
  await setup(["build", "run", "demo"]);
  await build();
  const program = await runnable(at("test/support/demo.ts"));
  if (!existsSync("/usr/bin/unshare")) throw new Failure("demo: /usr/bin/unshare is missing: install the package util-linux");
  say("demo: everything below runs in a network namespace of its own");
  const ended = await run("/usr/bin/unshare", ["--net", "--", process.execPath, program, ...args]);
  return ended.code ?? 1;
});
