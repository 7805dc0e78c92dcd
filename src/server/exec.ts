/** ExecSync. */
import type { RuntimeService } from "../../api/cri/service-definition.ts";
import type { ContainerService } from "../container/types.ts";
import { secondsToMs } from "./convert/seconds.ts";
import type { Handlers } from "./interceptor.ts";
import { checkId, checkNoNul, invalid } from "./validate.ts";

type Rpcs = Pick<Handlers<typeof RuntimeService>, "ExecSync">;

/** Room in the answer for what is not output. */
const answerOverheadBytes = 1024;

export function execRpcs(containers: ContainerService, maxMessageBytes: number): Rpcs {
  return {
    ExecSync: {
      timeoutMs: ({ timeout }, defaultMs) => {
        const timeoutMs = secondsToMs(timeout, "timeout");
        return timeoutMs === 0 ? null : defaultMs + timeoutMs;
      },
      handle: async (op, { containerId, cmd, timeout }) => {
        if (cmd.length === 0) throw invalid("cmd", "is empty");
        const result = await containers.execSync(op, {
          containerId: checkId(containerId, "container_id"),
          command: cmd.map((word) => checkNoNul(word, "cmd")),
          timeoutMs: secondsToMs(timeout, "timeout"),
        });
        return { ...fitOutput(result.stdout, result.stderr, maxMessageBytes - answerOverheadBytes), exitCode: result.exitCode };
      },
    },
  };
}

/** Cuts both outputs so that their sum fits one message; each keeps at least half of the room if it needs it. */
export function fitOutput(
  stdout: Uint8Array,
  stderr: Uint8Array,
  room: number,
): { readonly stdout: Uint8Array; readonly stderr: Uint8Array } {
  const half = Math.floor(room / 2);
  const stdoutBytes = Math.min(stdout.byteLength, Math.max(half, room - stderr.byteLength));
  const stderrBytes = Math.min(stderr.byteLength, room - stdoutBytes);
  return { stdout: stdout.subarray(0, stdoutBytes), stderr: stderr.subarray(0, stderrBytes) };
}
