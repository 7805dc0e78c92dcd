/** The `berth` command. Each subcommand is a file; this one knows only their names and flags. */
import { Command } from "commander";
import { describeError, errorKind } from "../base/errors.ts";
import { defaultConfigPath } from "../config/load.ts";

interface CommonFlags {
  readonly config?: string;
  readonly set: string[];
}

const collect = (value: string, previous: string[]): string[] => [...previous, value];

function withConfig(command: Command): Command {
  return command
    .option("-c, --config <file>", `configuration file (default ${defaultConfigPath}, which may be absent)`)
    .option("--set <key=value>", "one option, over files and drop-ins; repeatable", collect, []);
}

function sources(flags: CommonFlags) {
  return { path: flags.config ?? defaultConfigPath, required: flags.config !== undefined, sets: flags.set };
}

const program = new Command("berth").description("A Kubernetes container runtime (CRI server)").showHelpAfterError();

withConfig(program.command("serve").description("serve the CRI until SIGTERM or SIGINT")).action(async (flags: CommonFlags) => {
  const { serve } = await import("./serve.ts");
  await serve(sources(flags));
});

withConfig(program.command("config").description("print the effective configuration as TOML; fails where it is not valid"))
  .option("--default", "print the defaults alone")
  .option("--reference", "print the table of all keys in Markdown")
  .action(async (flags: CommonFlags & { default?: boolean; reference?: boolean }) => {
    const { showConfig } = await import("./config.ts");
    showConfig(sources(flags), { defaults: flags.default === true, reference: flags.reference === true });
  });

withConfig(program.command("status").description("ask the running daemon what it does: conditions, operations, their steps"))
  .option("--json", "print JSON")
  .action(async (flags: CommonFlags & { json?: boolean }) => {
    const { showStatus } = await import("./status.ts");
    await showStatus(sources(flags), flags.json === true);
  });

withConfig(program.command("check").description("check whether this host can run containers, and say what is missing")).action(
  async (flags: CommonFlags) => {
    const { checkHost } = await import("./check.ts");
    await checkHost(sources(flags));
  },
);

program
  .command("version")
  .description("print the version")
  .option("--json", "print JSON")
  .action(async (flags: { json?: boolean }) => {
    const { showVersion } = await import("./version.ts");
    showVersion(flags.json === true);
  });

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`berth: ${describeError(error)}\n`);
  process.exitCode = errorKind(error) === "invalid-argument" ? 2 : 1;
}
