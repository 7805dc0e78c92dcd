/** `berth serve`: starts the daemon and turns signals into its verbs. */
import { describeError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import { type ConfigSources, loadConfig } from "../config/load.ts";
import { startDaemon } from "../daemon/start.ts";
import { setFailpoints } from "../operation/failpoints.ts";

export async function serve(sources: ConfigSources): Promise<void> {
  const { config } = loadConfig(sources);
  const log = createLogger(config.log);
  if (process.env["BERTH_FAILPOINTS"]) setFailpoints(process.env["BERTH_FAILPOINTS"]);
  process.on("unhandledRejection", (reason) => log.error({ err: describeError(reason) }, "unhandled rejection"));
  process.on("uncaughtException", (error) => log.error({ err: describeError(error), stack: error.stack }, "uncaught exception"));
  // Events of the native core hold nothing open: while the start waits for them alone, Node.js would end.
  const alive = setInterval(() => undefined, 2 ** 30);
  const daemon = await startDaemon(config, log).finally(() => clearInterval(alive));

  let stopping = false;
  const stop = (signal: string): void => {
    if (stopping) return;
    stopping = true;
    log.info({ signal }, "shutting down; containers go on");
    daemon.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: describeError(error) }, "shutdown failed");
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", () => stop("SIGTERM"));
  process.on("SIGINT", () => stop("SIGINT"));
  process.on("SIGHUP", () => {
    try {
      daemon.reload(loadConfig(sources).config);
    } catch (error) {
      log.error({ err: describeError(error) }, "the configuration is not reloaded: it is not valid");
    }
  });
}
