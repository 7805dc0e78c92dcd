/**
 * Generates the CRI code from runtime.proto into build/generated/cri/:
 *
 *   messages.js     protobufjs static encoders and decoders, one named export for each message and enum
 *   messages.d.ts   their types (pbts is slow and types 64-bit fields loosely, so these are our own)
 *   rpcs.ts         the RPCs of both services with their codecs, for api/cri/service-definition.ts
 *
 * Does nothing when the outputs are newer than the inputs. Run it by itself or call `generateCri()`.
 */
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, "../..");
const output = join(root, "build/generated/cri");
const protoPath = join(here, "runtime.proto");
const inputs = [protoPath, fileURLToPath(import.meta.url), join(root, "node_modules/protobufjs-cli/package.json")];
const outputs = ["messages.js", "messages.d.ts", "rpcs.ts"].map((name) => join(output, name));

const int64Types = new Set(["int64", "uint64", "sint64", "fixed64", "sfixed64"]);
const numberTypes = new Set(["int32", "uint32", "sint32", "fixed32", "sfixed32", "double", "float"]);

/** Returns whether anything was written. */
export async function generateCri({ force = false } = {}) {
  if (!force && isFresh()) return false;
  const require = createRequire(import.meta.url);
  const protobuf = require("protobufjs");
  const schema = protobuf.parse(readFileSync(protoPath, "utf8"), new protobuf.Root(), { keepCase: false }).root;
  schema.resolveAll();
  const namespace = schema.lookup("runtime.v1");
  const types = collect(namespace, protobuf);

  mkdirSync(output, { recursive: true });
  write("messages.js", await staticCode(types));
  write("messages.d.ts", declarations(types));
  write("rpcs.ts", rpcTables(types));
  return true;
}

function isFresh() {
  try {
    const newestInput = Math.max(...inputs.map((path) => statSync(path).mtimeMs));
    const oldestOutput = Math.min(...outputs.map((path) => statSync(path).mtimeMs));
    return oldestOutput >= newestInput;
  } catch {
    return false;
  }
}

/** Rename, so that a build which runs beside this one never reads half a file. */
function write(name, text) {
  const path = join(output, name);
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, path);
}

/** Messages, enums and services of the package; a nested enum is exported under its own name. */
function collect(namespace, protobuf) {
  const found = { messages: [], enums: [], services: [] };
  const visit = (parent, path) => {
    for (const entry of parent.nestedArray) {
      const at = [...path, entry.name];
      if (entry instanceof protobuf.Enum) found.enums.push({ name: entry.name, path: at, values: entry.values });
      else if (entry instanceof protobuf.Service) found.services.push(entry);
      else if (entry instanceof protobuf.Type) {
        found.messages.push(entry);
        visit(entry, at);
      }
    }
  };
  visit(namespace, []);
  const names = [...found.messages, ...found.enums].map((entry) => entry.name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice) throw new Error(`${twice} is the name of two types`);
  return found;
}

async function staticCode({ messages, enums }) {
  const require = createRequire(import.meta.url);
  const pbjs = require("protobufjs-cli/pbjs.js");
  const args = ["-t", "static-module", "-w", "esm", "--es6", "--dependency", "protobufjs/minimal.js"];
  // No conversion to or from plain objects, no reflection: encode and decode are all that a server needs.
  for (const part of ["create", "verify", "convert", "delimited", "typeurl", "service", "comments"]) args.push(`--no-${part}`);
  const code = await new Promise((done, fail) => {
    pbjs.main([...args, protoPath], (error, text) => (error ? fail(error) : done(text)));
  });
  // A root of its own instead of the process-wide registry of protobufjs.
  const registry = '$protobuf.roots["default"] || ($protobuf.roots["default"] = {})';
  if (!code.includes(registry)) throw new Error("protobufjs-cli's output has another shape than expected: no root registry");
  const exports = [
    ...messages.map(({ name }) => `export const ${name} = runtime.v1.${name};`),
    ...enums.map(({ name, path }) => `export const ${name} = runtime.v1.${path.join(".")};`),
  ];
  const body = code.replace(registry, "{}").replace(/\nexport \{\n\s*\$root as default\n\};\s*$/, "\n");
  if (body.includes("as default")) throw new Error("protobufjs-cli's output has another shape than expected: no default export");
  return `// Generated from api/cri/runtime.proto.\n${body}\n${exports.join("\n")}\n`;
}

function declarations({ messages, enums }) {
  const lines = [
    "// Generated from api/cri/runtime.proto.",
    "",
    "/** A 64-bit integer as two 32-bit halves. Never a BigInt: protobufjs encodes those as 0 without a word. */",
    "export interface Int64 {",
    "  readonly low: number;",
    "  readonly high: number;",
    "  readonly unsigned: boolean;",
    "}",
    "",
    "/** What a 64-bit field takes: a number up to 2^53, or exact halves. */",
    "export type Int64Input = number | Int64;",
    "",
    "/** `Message` is what `decode` gives (every field is there), `Input` what `encode` takes (every field may be left out). */",
    "export interface Codec<Message, Input> {",
    "  encode(message: Input): { finish(): Uint8Array };",
    "  decode(bytes: Uint8Array): Message;",
    "}",
    "",
  ];
  for (const { name, values } of enums) {
    lines.push(`export declare const ${name}: {`);
    for (const [key, value] of Object.entries(values)) lines.push(`  readonly ${key}: ${value};`);
    lines.push("};", "");
  }
  for (const message of messages) {
    lines.push(`export interface ${message.name} {`);
    for (const field of message.fieldsArray) lines.push(`  readonly ${field.name}: ${typeOf(field, false)};`);
    lines.push("}", `export interface ${message.name}Input {`);
    for (const field of message.fieldsArray) lines.push(`  readonly ${field.name}?: ${typeOf(field, true)} | null | undefined;`);
    lines.push("}", `export declare const ${message.name}: Codec<${message.name}, ${message.name}Input>;`, "");
  }
  return lines.join("\n");
}

function typeOf(field, input) {
  const single = scalarOf(field, input);
  if (field.map) return `Readonly<Record<string, ${single}>>`;
  if (field.repeated) return `readonly ${single}[]`;
  const isMessage = field.resolvedType !== null && field.resolvedType.fields !== undefined;
  return isMessage && !input ? `${single} | null` : single;
}

function scalarOf(field, input) {
  if (field.resolvedType === null) {
    if (int64Types.has(field.type)) return input ? "Int64Input" : "Int64";
    if (numberTypes.has(field.type)) return "number";
    if (field.type === "bool") return "boolean";
    if (field.type === "bytes") return "Uint8Array";
    if (field.type === "string") return "string";
    throw new Error(`${field.fullName}: type ${field.type} has no TypeScript type here`);
  }
  // An enum field may hold a number that this version does not know.
  if (field.resolvedType.values !== undefined) return "number";
  return input ? `${field.resolvedType.name}Input` : field.resolvedType.name;
}

function rpcTables({ services }) {
  const lines = ["// Generated from api/cri/runtime.proto.", 'import * as messages from "./messages.js";', ""];
  for (const service of services) {
    lines.push(`export const ${service.name} = {`);
    for (const method of service.methodsArray) {
      if (method.requestStream) throw new Error(`${method.fullName}: a stream of requests is not supported`);
      lines.push(
        `  ${method.name}: {`,
        `    path: "/runtime.v1.${service.name}/${method.name}",`,
        `    request: messages.${method.resolvedRequestType.name},`,
        `    response: messages.${method.resolvedResponseType.name},`,
        `    serverStream: ${Boolean(method.responseStream)},`,
        "  },",
      );
    }
    lines.push("} as const;", "");
  }
  return lines.join("\n");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const written = await generateCri({ force: process.argv.includes("--force") });
  console.log(written ? "generated build/generated/cri" : "build/generated/cri is up to date");
}
