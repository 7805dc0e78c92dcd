/** `berth status`: asks the running daemon over its own CRI socket, as crictl would. */
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { clientDefinition, type ResponseOf, RuntimeService } from "../../api/cri/service-definition.ts";
import { DomainError } from "../base/errors.ts";
import { type ConfigSources, loadConfig } from "../config/load.ts";
import type { RunningOperation } from "../operation/running.ts";

const timeoutMs = 5000;

interface VerboseStatus {
  readonly version: string;
  readonly operations: readonly RunningOperation[];
  readonly problems: readonly string[];
  readonly sandboxes: number;
  readonly containers: number;
  readonly images: number;
  readonly metrics: string;
}

export async function showStatus(sources: ConfigSources, json: boolean): Promise<void> {
  const { socket } = loadConfig(sources).config.api;
  const response = await askStatus(socket);
  const info = JSON.parse(response.info["info"] ?? "{}") as VerboseStatus;
  const conditions = response.status?.conditions ?? [];
  if (json) {
    process.stdout.write(`${JSON.stringify({ conditions, ...info })}\n`);
  } else {
    const lines = [
      `berth ${info.version} on ${socket}`,
      ...conditions.map(({ type, status, reason, message }) => `${type}: ${status ? "yes" : `no (${reason}: ${message})`}`),
      `${info.sandboxes} sandboxes, ${info.containers} containers, ${info.images} images${info.metrics === "" ? "" : `; metrics on ${info.metrics}`}`,
      ...info.problems.map((problem) => `problem: ${problem}`),
      ...info.operations.map(operationLine),
    ];
    process.stdout.write(`${lines.join("\n")}\n`);
  }
  if (conditions.some(({ status }) => !status)) process.exitCode = 1;
}

function operationLine(op: RunningOperation): string {
  const ids = Object.entries(op.ids).map(([key, value]) => `${key}=${value.slice(0, 12)}`);
  const left = op.remainingMs === null ? "no deadline" : `${Math.round(op.remainingMs)} ms left`;
  return [`running: ${op.name}`, ...ids, `step ${op.step ?? "-"}`, `for ${Math.round(op.ageMs)} ms`, left].join(", ");
}

function askStatus(socket: string): Promise<ResponseOf<typeof RuntimeService.Status>> {
  const client = new Client(`unix:${socket}`, credentials.createInsecure(), { "grpc.default_authority": "localhost" });
  const method = clientDefinition(RuntimeService)["Status"];
  if (method === undefined) throw new DomainError("internal", "the generated service has no Status");
  return new Promise<ResponseOf<typeof RuntimeService.Status>>((resolve, reject) => {
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      { verbose: true },
      new Metadata(),
      { deadline: Date.now() + timeoutMs },
      (error, response) => {
        if (response === undefined || error) {
          reject(new DomainError("unavailable", `no daemon answers on ${socket}: ${error?.details ?? "no response"}`, { cause: error }));
        } else {
          resolve(response as ResponseOf<typeof RuntimeService.Status>);
        }
      },
    );
  }).finally(() => client.close());
}
