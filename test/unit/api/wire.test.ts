import { readFileSync } from "node:fs";
import protobuf from "protobufjs";
import { describe, expect, test } from "vitest";
import * as cri from "../../../api/cri/service-definition.ts";

type FieldFacts = [number, string, ...string[]];
interface Facts {
  package: string;
  version: string;
  services: Record<string, Record<string, [string, string]>>;
  enums: Record<string, Record<string, number>>;
  messages: Record<string, Record<string, FieldFacts>>;
}

const facts = JSON.parse(readFileSync(new URL("./wire.json", import.meta.url), "utf8")) as Facts;
const source = readFileSync(new URL("../../../api/cri/runtime.proto", import.meta.url), "utf8");
const parsed = factsOf(source);

/** The facts of a proto file, in the form of wire.json. */
function factsOf(text: string): Omit<Facts, "version"> {
  const result = protobuf.parse(text, new protobuf.Root(), { keepCase: true });
  result.root.resolveAll();
  const found: Omit<Facts, "version"> = { package: result.package ?? "", services: {}, enums: {}, messages: {} };
  const visit = (parent: protobuf.NamespaceBase, prefix: string): void => {
    for (const entry of parent.nestedArray) {
      const name = `${prefix}${entry.name}`;
      if (entry instanceof protobuf.Enum) found.enums[name] = { ...entry.values };
      else if (entry instanceof protobuf.Type) {
        found.messages[name] = Object.fromEntries(entry.fieldsArray.map((field) => [field.name, fieldFacts(field)]));
        visit(entry, `${name}.`);
      } else if (entry instanceof protobuf.Service) {
        found.services[name] = Object.fromEntries(
          entry.methodsArray.map((method) => [
            method.name,
            [
              `${method.requestStream ? "stream " : ""}${method.requestType}`,
              `${method.responseStream ? "stream " : ""}${method.responseType}`,
            ],
          ]),
        );
      }
    }
  };
  visit(result.root.lookup("runtime.v1") as protobuf.Namespace, "");
  return found;
}

function fieldFacts(field: protobuf.Field): FieldFacts {
  const key = field instanceof protobuf.MapField ? field.keyType : null;
  const type = key === null ? `${field.repeated ? "repeated " : ""}${field.type}` : `map<${key},${field.type}>`;
  const flags: string[] = [];
  if (field.options?.["deprecated"]) flags.push("deprecated");
  if (field.options?.["debug_redact"]) flags.push("secret");
  return [field.id, type, ...flags];
}

describe("runtime.proto against the facts of the wire", () => {
  test("names the package", () => {
    expect(parsed.package).toBe(facts.package);
  });

  test("has every service, RPC, request and response, and no other", () => {
    expect(parsed.services).toEqual(facts.services);
  });

  test("has every enum value, and no other", () => {
    expect(parsed.enums).toEqual(facts.enums);
  });

  test("has every message", () => {
    expect(Object.keys(parsed.messages).sort()).toEqual(Object.keys(facts.messages).sort());
  });

  test.each(Object.keys(facts.messages))("%s has its fields with number, type and flags", (name) => {
    expect(parsed.messages[name]).toEqual(facts.messages[name]);
  });

  test("the comparison sees a wrong number, type, flag and a missing field", () => {
    const changed = (from: string, to: string) => {
      expect(source).toContain(from);
      return factsOf(source.replace(from, to)).messages;
    };
    expect(changed("uint32 attempt = 4;", "uint32 attempt = 5;")).not.toEqual(facts.messages);
    expect(changed("uint32 attempt = 4;", "int32 attempt = 4;")).not.toEqual(facts.messages);
    expect(changed("string password = 2 [debug_redact = true];", "string password = 2;")).not.toEqual(facts.messages);
    expect(changed("repeated string repo_tags = 2;", "")).not.toEqual(facts.messages);
  });
});

describe("the generated code", () => {
  test("has a codec for every RPC under the wire's path", () => {
    for (const [service, table] of Object.entries({ RuntimeService: cri.RuntimeService, ImageService: cri.ImageService })) {
      const rpcs: cri.RpcTable = table;
      expect(Object.keys(rpcs).sort()).toEqual(Object.keys(facts.services[service] ?? {}).sort());
      for (const [name, [, response]] of Object.entries(facts.services[service] ?? {})) {
        expect(rpcs[name]?.path).toBe(`/runtime.v1.${service}/${name}`);
        expect(rpcs[name]?.serverStream).toBe(response.startsWith("stream "));
      }
    }
  });

  test("agrees byte for byte with protobufjs reflection on a message with every kind of field", () => {
    const root = protobuf.parse(source, new protobuf.Root()).root;
    const message = {
      id: "a".repeat(64),
      metadata: { name: "web", uid: "u", namespace: "default", attempt: 3 },
      state: 1,
      createdAt: { low: 0x12345678, high: 0x17a1b2c3, unsigned: false },
      labels: { "app.kubernetes.io/name": "wéb", constructor: "x", "": "empty key" },
      annotations: { a: "" },
      runtimeHandler: "",
    };
    const reflected = root.lookupType("runtime.v1.PodSandbox");
    const bytes = cri.encodeMessage(cri.PodSandbox, message);
    expect(bytes.equals(Buffer.from(reflected.encode(message).finish()))).toBe(true);
    expect(cri.PodSandbox.decode(bytes).labels).toEqual(message.labels);
  });

  test.each([
    ["the largest int64", { low: -1, high: 0x7fffffff, unsigned: false }],
    ["the smallest int64", { low: 0, high: -0x80000000, unsigned: false }],
    ["a time in nanoseconds, beyond 2^53", { low: 0x075bcd15, high: 0x17a1b2c3, unsigned: false }],
  ])("%s passes unchanged", (_, value) => {
    const decoded = cri.Int64Value.decode(cri.encodeMessage(cri.Int64Value, { value })).value;
    expect([decoded.low | 0, decoded.high | 0]).toEqual([value.low | 0, value.high | 0]);
  });

  test("a 64-bit field that is absent decodes as a zero of two halves", () => {
    expect(cri.Int64Value.decode(new Uint8Array()).value).toMatchObject({ low: 0, high: 0 });
  });

  test("an unknown field is skipped and not kept", () => {
    const known = cri.encodeMessage(cri.PodIP, { ip: "10.0.0.1" });
    const decoded = cri.PodIP.decode(Buffer.concat([known, Buffer.from([0xf2, 0x3f, 2, 65, 66])]));
    expect(cri.encodeMessage(cri.PodIP, decoded).equals(known)).toBe(true);
  });

  test("a server's definition passes encoded answers through untouched", () => {
    const definition = cri.serverDefinition(cri.RuntimeService)["ListContainers"];
    const bytes = Buffer.from([1, 2, 3]);
    expect(definition?.responseSerialize(bytes)).toBe(bytes);
    const view = new Uint8Array([0, 1, 2, 3]).subarray(1);
    expect(definition?.responseSerialize(view)).toEqual(bytes);
  });
});
