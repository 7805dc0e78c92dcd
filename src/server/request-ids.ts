/** The ids that a request is about, for logs and for the list of running operations. Read by shape, never throwing. */

const directKeys = { podSandboxId: "sandboxId", containerId: "containerId" } as const;
const maxLength = 256;

export function requestIds(request: unknown): Record<string, string> {
  const ids: Record<string, string> = {};
  if (!isRecord(request)) return ids;
  for (const [key, name] of Object.entries(directKeys)) put(ids, name, request[key]);
  if (isRecord(request["image"])) put(ids, "image", request["image"]["image"]);
  const config = request["config"];
  if (isRecord(config) && isRecord(config["metadata"])) {
    const { name, namespace, uid } = config["metadata"];
    // A pod's metadata has a namespace, a container's has none.
    if (typeof namespace === "string") {
      put(ids, "pod", `${namespace}/${String(name)}`);
      put(ids, "podUid", uid);
    } else put(ids, "container", name);
  }
  return ids;
}

function put(ids: Record<string, string>, name: string, value: unknown): void {
  if (typeof value === "string" && value !== "") ids[name] = value.slice(0, maxLength);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
