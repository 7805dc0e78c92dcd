/**
 * OCI: bundles and the runtimes that run them. `spec/` makes config.json out of decisions (pure but for the files that
 * decisions are read from), `handlers/` runs it, `monitor-client.ts` talks to a container's monitor. Knows no sandbox and no
 * container of the CRI: its inputs are types of its own. Imports: kernel, config, api/monitor, base, operation.
 */
export type { ContainerExit } from "./exit-file.ts";
export { mountBundleRootfs, writeBundle } from "./handlers/bundle.ts";
export type {
  Adoption,
  CommandEnd,
  CommandStdio,
  ContainerEnd,
  ExecOutcome,
  Launch,
  LiveContainer,
  LogTarget,
  RootfsMount,
  RuntimeHandler,
  StreamedCommand,
} from "./handlers/handler.ts";
export { NativeHandler, nativeHandlerName } from "./handlers/native.ts";
export { HandlerRegistry, handlerNames, resolveHandlerName } from "./handlers/registry.ts";
