/** Exec, Attach, PortForward: each answers with a URL that its client is to connect to within a minute. */
import type { RuntimeService } from "../../api/cri/service-definition.ts";
import { DomainError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { ContainerService } from "../container/types.ts";
import type { SandboxService } from "../sandbox/types.ts";
import type { StreamingService } from "../streaming/index.ts";
import type { Handlers } from "./interceptor.ts";
import { checkId, checkNoNul, invalid } from "./validate.ts";

type Rpcs = Pick<Handlers<typeof RuntimeService>, "Exec" | "Attach" | "PortForward">;

export type StreamIssuer = Pick<StreamingService, "exec" | "attach" | "portForward">;

export function streamingRpcs(streaming: StreamIssuer, containers: ContainerService, sandboxes: SandboxService): Rpcs {
  return {
    Exec: {
      handle: (_op, { containerId, cmd, tty, stdin, stdout, stderr }) => {
        if (cmd.length === 0) throw invalid("cmd", "is empty");
        const command = cmd.map((word) => checkNoNul(word, "cmd"));
        checkStreams({ tty, stdin, stdout, stderr });
        const id = runningContainerId(containers, containerId);
        return { url: streaming.exec({ containerId: id, command, terminal: tty, stdin, stdout, stderr }) };
      },
    },
    Attach: {
      handle: (_op, { containerId, tty, stdin, stdout, stderr }) => {
        checkStreams({ tty, stdin, stdout, stderr });
        const id = runningContainerId(containers, containerId);
        return { url: streaming.attach({ containerId: id, terminal: tty, stdin, stdout, stderr }) };
      },
    },
    PortForward: {
      // The ports are named again by each connection: the request's are a hint.
      handle: (_op, { podSandboxId }) => {
        const view = sandboxes.get(checkId(podSandboxId, "pod_sandbox_id"));
        if (view.state !== "ready") {
          throw new DomainError("failed-precondition", `sandbox ${shortId(view.id)} is not ready`, { ids: { sandboxId: view.id } });
        }
        return { url: streaming.portForward({ sandboxId: view.id }) };
      },
    },
  };
}

interface Streams {
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

function checkStreams({ tty, stdin, stdout, stderr }: Streams): void {
  if (tty && stderr) throw invalid("stderr", "cannot be had with tty: a terminal has one output");
  if (!stdin && !stdout && !stderr) throw invalid("stdin", "and stdout and stderr are all false");
}

/** Asked again when the client comes; an answer now is better than one on a stream. */
function runningContainerId(containers: ContainerService, id: string): string {
  const view = containers.get(checkId(id, "container_id"));
  if (view.state !== "running") {
    throw new DomainError("failed-precondition", `container ${shortId(view.id)} is ${view.state}, not running`, {
      ids: { containerId: view.id },
    });
  }
  return view.id;
}
