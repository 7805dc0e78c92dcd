/** The configuration as the rest of the daemon reads it: complete, validated, frozen. `schema.ts` makes it. */

export interface BerthConfig {
  /** Persistent state: images, layers, records. */
  readonly root: string;
  /** Volatile state: sockets, namespaces' files, bundles; on a tmpfs where there is one. */
  readonly runRoot: string;
  readonly log: { readonly level: "trace" | "debug" | "info" | "warn" | "error"; readonly format: "json" | "text" };
  readonly api: {
    readonly socket: string;
    /** Group of the socket: a name or a number as text. */
    readonly group: string;
    readonly maxMessageBytes: number;
    readonly maxInFlightPerMethod: number;
    /** For calls that come without a deadline, pulls and streams excepted. */
    readonly defaultTimeoutMs: number;
  };
  readonly metrics: { readonly enabled: boolean; readonly address: string };
  readonly streaming: {
    readonly address: string;
    readonly idleTimeoutMs: number;
    /** Paths; empty for plain HTTP. The key goes with the certificate, the client CA with both. */
    readonly tlsCertificate: string;
    readonly tlsKey: string;
    readonly tlsClientCa: string;
  };
  readonly runtime: {
    readonly cgroupDriver: "cgroupfs" | "systemd";
    /** Parent of pods whose request names none. */
    readonly defaultCgroupParent: string;
    /** Where monitors live; never below a pod's cgroup. */
    readonly monitorCgroup: string;
    readonly defaultHandler: string;
    /** Further OCI runtimes: handler name → program. `native` is always there. */
    readonly handlers: Readonly<Record<string, { readonly type: "native" | "command"; readonly path: string; readonly root: string }>>;
    readonly defaultCapabilities: readonly string[];
    readonly defaultSysctls: Readonly<Record<string, string>>;
    /** 0 for no limit. */
    readonly pidsLimit: number;
    readonly shmSizeBytes: number;
    /** JSON file with a runtime-spec seccomp object; empty for the built-in default profile. */
    readonly seccompProfile: string;
    /** Localhost profiles are looked up below it. */
    readonly seccompProfileRoot: string;
    readonly apparmorProfile: string;
    /** Program that loads the built-in profile; empty where Berth is to load nothing. */
    readonly apparmorParser: string;
    readonly createTimeoutMs: number;
    readonly unclaimedTtlMs: number;
    readonly logMaxBytes: number;
    /** Grace between the end of a container's processes and that of the drain of its stdio. */
    readonly stopTimeoutMs: number;
  };
  readonly image: {
    readonly registriesConfig: string;
    readonly registriesConfigDirectory: string;
    readonly certsDirectory: string;
    readonly policy: string;
    readonly authFile: string;
    readonly maxParallelDownloads: number;
    readonly maxParallelDownloadsPerPull: number;
    readonly progressTimeoutMs: number;
    readonly maxLayerBytes: number;
    readonly maxLayerEntries: number;
    /** Names or globs that image GC leaves alone. */
    readonly pinned: readonly string[];
    /** Pulls fail below this much free space. */
    readonly minFreeBytes: number;
  };
  readonly network: {
    readonly configDirectory: string;
    readonly pluginDirectories: readonly string[];
    /** Where network namespaces are pinned. */
    readonly namespaceDirectory: string;
    /** Where CNI's cached results of ours stand. */
    readonly cacheDirectory: string;
    readonly pluginTimeoutMs: number;
    /** Past this many bytes of output a plugin is killed. */
    readonly maxPluginOutputBytes: number;
  };
}
