/** What runs and where: the CRI's merge of the request's command, arguments and directory with the image's. */
import { DomainError } from "../../base/errors.ts";

export interface CommandInput {
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly imageEntrypoint: readonly string[];
  readonly imageCommand: readonly string[];
}

/**
 * A command replaces the image's entrypoint and its default arguments; arguments alone replace the image's arguments
 * and keep its entrypoint. Nothing at all is invalid-argument.
 */
export function decideCommand(input: CommandInput): readonly string[] {
  const argv =
    input.command.length > 0
      ? [...input.command, ...input.args]
      : [...input.imageEntrypoint, ...(input.args.length > 0 ? input.args : input.imageCommand)];
  if (argv.length === 0 || argv[0] === "") {
    throw new DomainError("invalid-argument", "no command: neither the request nor the image names one");
  }
  const bad = argv.findIndex((argument) => argument.includes("\0"));
  if (bad >= 0) throw new DomainError("invalid-argument", `argument ${bad} of the command contains a NUL`);
  return argv;
}

/**
 * The request's directory, the image's, or `/`. Control bytes and colons are refused: the directory ends up in lines of
 * colon-separated fields (passwd entries made for a user, path lists) where either would forge a field or a line.
 */
export function decideWorkingDirectory(requested: string, image: string): string {
  const directory = requested || image || "/";
  if (!directory.startsWith("/"))
    throw new DomainError("invalid-argument", `working directory ${JSON.stringify(directory)} is not absolute`);
  assertPlainField("working directory", directory);
  return directory;
}

/** Throws invalid-argument for a text with a control byte or a colon in it. */
export function assertPlainField(what: string, text: string): void {
  if (/[\u0000-\u001f\u007f:]/.test(text)) {
    throw new DomainError("invalid-argument", `${what} ${JSON.stringify(text)} contains a control character or a colon`);
  }
}
