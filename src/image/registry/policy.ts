/**
 * containers-policy.json(5): which images may be pulled. `insecureAcceptAnything` and `reject` are honoured for every scope
 * of the docker transport; a requirement that asks for a signature is refused, because signatures are not verified yet: a
 * policy must never seem to hold without being checked.
 */
import { readFile } from "node:fs/promises";
import { DomainError, toError } from "../../base/errors.ts";
import { asArray, asObject, asString, optionalObject } from "../json.ts";
import { formatReference, type Reference, repositoryName } from "../reference.ts";

/** Throws signature-validation-failed. An absent file accepts everything. */
export async function checkPolicy(path: string, reference: Reference): Promise<void> {
  const name = formatReference(reference);
  const refuse = (why: string): never => {
    throw new DomainError("signature-validation-failed", `image ${name}: ${why} (${path})`, { ids: { image: name } });
  };
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (path === "" || (error as NodeJS.ErrnoException).code === "ENOENT") return;
    return refuse("the signature policy cannot be read");
  }
  let requirements: readonly { readonly type: string }[];
  try {
    requirements = findRequirements(text, reference);
  } catch (error) {
    return refuse(`the signature policy is malformed: ${toError(error).message}`);
  }
  if (requirements.length === 0) refuse("the signature policy has an empty list of requirements for it");
  for (const { type } of requirements) {
    if (type === "insecureAcceptAnything") continue;
    if (type === "reject") refuse("the signature policy rejects it");
    refuse(`the signature policy requires ${type}, and the verification of signatures is not built yet`);
  }
}

function findRequirements(text: string, reference: Reference): readonly { readonly type: string }[] {
  const root = asObject(JSON.parse(text), "the policy");
  const docker = optionalObject(optionalObject(root["transports"], "transports")?.["docker"], "transports.docker");
  let chosen: unknown = root["default"];
  for (const scope of [...scopesOf(reference), ""]) {
    const found = docker?.[scope];
    if (found === undefined) continue;
    chosen = found;
    break;
  }
  return asArray(chosen, "the list of requirements", 100).map((item, index) => ({
    type: asString(asObject(item, `requirement ${index}`)["type"], `requirement ${index}.type`),
  }));
}

/** The image itself, its repository, the namespaces above it, the host, then `*.` of the host's domains. */
function scopesOf(reference: Reference): readonly string[] {
  const scopes = [formatReference(reference)];
  for (let name = repositoryName(reference); ; name = name.slice(0, name.lastIndexOf("/"))) {
    scopes.push(name);
    if (!name.includes("/")) break;
  }
  const labels = reference.host.replace(/:\d+$/, "").split(".");
  for (let from = 1; from < labels.length; from += 1) scopes.push(`*.${labels.slice(from).join(".")}`);
  return scopes;
}
