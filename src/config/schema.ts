/**
 * The one description of the configuration: every key with its default, its check and its explanation.
 * Defaults, TOML files, drop-ins, `--set` flags, `berth config` and docs/configuration.md all come from it.
 */
import * as v from "valibot";

export interface OptionSpec {
  /** Dotted, snake case, as in TOML: `api.max_message_bytes`. */
  readonly key: string;
  readonly schema: v.GenericSchema;
  readonly fallback: unknown;
  readonly doc: string;
  /** A reload (SIGHUP) applies it; else it waits for a restart. */
  readonly reloadable?: boolean;
}

const absolutePath = v.pipe(
  v.string(),
  v.check((text) => text.startsWith("/") && !text.includes("\0"), "must be an absolute path"),
);
const pathOrEmpty = v.pipe(
  v.string(),
  v.check((text) => text === "" || (text.startsWith("/") && !text.includes("\0")), "must be an absolute path or empty"),
);
const natural = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(Number.MAX_SAFE_INTEGER));
const positive = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(Number.MAX_SAFE_INTEGER));
const hostPort = v.pipe(v.string(), v.regex(/^(\[[0-9A-Fa-f:.]+\]|[^:\s]+):\d{1,5}$/, "must be host:port"));
const cgroupPath = v.pipe(v.string(), v.regex(/^(\/[A-Za-z0-9_.:-]+)+$/, "must be an absolute cgroup path"));
const stringMap = v.record(v.string(), v.string());
const handlers = v.record(
  v.pipe(v.string(), v.regex(/^[a-z0-9]([a-z0-9.-]{0,62})$/, "must be a handler name: lower-case letters, digits, '-' and '.'")),
  v.strictObject({ type: v.picklist(["native", "command"]), path: v.optional(pathOrEmpty, ""), root: v.optional(pathOrEmpty, "") }),
);
const capabilities = v.array(v.pipe(v.string(), v.regex(/^(CAP_)?[A-Z_]+$/, "must be a capability such as CHOWN")));

export const optionSpecs: readonly OptionSpec[] = [
  { key: "root", schema: absolutePath, fallback: "/var/lib/berth", doc: "Persistent state: images, layers, records." },
  { key: "run_root", schema: absolutePath, fallback: "/run/berth", doc: "Volatile state: sockets, bundles, files of the pods." },
  {
    key: "log.level",
    schema: v.picklist(["trace", "debug", "info", "warn", "error"]),
    fallback: "info",
    doc: "Least severe message that is logged.",
    reloadable: true,
  },
  { key: "log.format", schema: v.picklist(["json", "text"]), fallback: "json", doc: "JSON lines, or text for people." },
  {
    key: "api.socket",
    schema: absolutePath,
    fallback: "/run/berth/berth.sock",
    doc: "Unix socket of the CRI; mode 0660 in a directory of mode 0750.",
  },
  { key: "api.group", schema: v.string(), fallback: "0", doc: "Group of the socket, by name or number." },
  {
    key: "api.max_message_bytes",
    schema: positive,
    fallback: 16 * 1024 * 1024,
    doc: "Largest gRPC message in either direction; the kubelet accepts 16 MiB.",
  },
  {
    key: "api.max_in_flight_per_method",
    schema: positive,
    fallback: 1000,
    doc: "Calls of one method at a time; further ones are refused as RESOURCE_EXHAUSTED.",
  },
  {
    key: "api.default_timeout_ms",
    schema: positive,
    fallback: 120_000,
    doc: "Deadline of a call that brings none; pulls and streams have none.",
  },
  { key: "metrics.enabled", schema: v.boolean(), fallback: true, doc: "Serve /metrics and /healthz." },
  { key: "metrics.address", schema: hostPort, fallback: "127.0.0.1:9464", doc: "host:port of the metrics; port 0 takes a free one." },
  {
    key: "streaming.address",
    schema: hostPort,
    fallback: "127.0.0.1:0",
    doc: "host:port of exec, attach and port-forward; port 0 takes a free one.",
  },
  { key: "streaming.idle_timeout_ms", schema: positive, fallback: 4 * 3600_000, doc: "A stream without traffic is closed after this." },
  {
    key: "streaming.tls_certificate",
    schema: pathOrEmpty,
    fallback: "",
    doc: "PEM file with the certificate of the streams' server; empty for plain HTTP. Its contents are read again when they change.",
  },
  { key: "streaming.tls_key", schema: pathOrEmpty, fallback: "", doc: "PEM file with the certificate's key; not readable for everybody." },
  {
    key: "streaming.tls_client_ca",
    schema: pathOrEmpty,
    fallback: "",
    doc: "PEM file with the CAs of which a client must have a certificate; empty asks for none.",
  },
  {
    key: "runtime.cgroup_driver",
    schema: v.picklist(["cgroupfs", "systemd"]),
    fallback: "cgroupfs",
    doc: "What RuntimeConfig tells the kubelet.",
  },
  { key: "runtime.default_cgroup_parent", schema: cgroupPath, fallback: "/berth-pods", doc: "Parent of pods whose request names none." },
  { key: "runtime.monitor_cgroup", schema: cgroupPath, fallback: "/berth-monitors", doc: "Cgroup of the monitors; never below a pod's." },
  { key: "runtime.default_handler", schema: v.string(), fallback: "native", doc: "Handler of pods whose request names none." },
  {
    key: "runtime.handlers",
    schema: handlers,
    fallback: { native: { type: "native", path: "", root: "" } },
    doc: "Runtime handlers by name. `native` is built in.",
  },
  {
    key: "runtime.default_capabilities",
    schema: capabilities,
    fallback: ["CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL"],
    doc: "Capabilities of a container before its request adds and drops.",
  },
  {
    key: "runtime.default_sysctls",
    schema: stringMap,
    fallback: { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" },
    doc: "Sysctls of pods with a network namespace of their own, before the request's.",
  },
  { key: "runtime.pids_limit", schema: natural, fallback: 0, doc: "Most processes of a container; 0 for no limit but the pod's." },
  { key: "runtime.shm_size_bytes", schema: positive, fallback: 64 * 1024 * 1024, doc: "Size of a pod's /dev/shm." },
  { key: "runtime.seccomp_profile", schema: pathOrEmpty, fallback: "", doc: "JSON file that replaces the built-in default profile." },
  {
    key: "runtime.seccomp_profile_root",
    schema: absolutePath,
    fallback: "/var/lib/kubelet/seccomp",
    doc: "Relative Localhost profiles are found below it.",
  },
  {
    key: "runtime.apparmor_profile",
    schema: v.string(),
    fallback: "berth-default",
    doc: "Default AppArmor profile, where the kernel has AppArmor. `berth-default` is built in, another one is loaded by the operator.",
  },
  {
    key: "runtime.apparmor_parser",
    schema: pathOrEmpty,
    fallback: "/usr/sbin/apparmor_parser",
    doc: "Program that loads the built-in AppArmor profile; empty to load none.",
  },
  {
    key: "runtime.create_timeout_ms",
    schema: positive,
    fallback: 240_000,
    doc: "Longest time that a create may take, whoever waits for it.",
  },
  {
    key: "runtime.unclaimed_ttl_ms",
    schema: positive,
    fallback: 300_000,
    doc: "A finished create that no retry has claimed is undone after this.",
  },
  {
    key: "runtime.log_max_bytes",
    schema: natural,
    fallback: 0,
    doc: "A container's log file is cut off past this; 0 leaves it to the kubelet's rotation.",
  },
  {
    key: "runtime.stop_timeout_ms",
    schema: positive,
    fallback: 10_000,
    doc: "Time for killed processes to go, before the step is reported as stuck.",
  },
  {
    key: "image.registries_config",
    schema: absolutePath,
    fallback: "/etc/containers/registries.conf",
    doc: "Mirrors, blocked and insecure registries.",
  },
  {
    key: "image.registries_config_directory",
    schema: absolutePath,
    fallback: "/etc/containers/registries.conf.d",
    doc: "Drop-ins of registries.conf.",
  },
  {
    key: "image.certs_directory",
    schema: absolutePath,
    fallback: "/etc/containerd/certs.d",
    doc: "`<host>/hosts.toml`, and certificates as Docker keeps them.",
  },
  {
    key: "image.policy",
    schema: absolutePath,
    fallback: "/etc/containers/policy.json",
    doc: "Signature policy; a missing file accepts everything.",
  },
  {
    key: "image.auth_file",
    schema: absolutePath,
    fallback: "/run/containers/0/auth.json",
    doc: "Credentials for pulls whose request has none.",
  },
  { key: "image.max_parallel_downloads", schema: positive, fallback: 8, doc: "Layer downloads at a time over all pulls." },
  { key: "image.max_parallel_downloads_per_pull", schema: positive, fallback: 3, doc: "Layer downloads at a time within one pull." },
  {
    key: "image.progress_timeout_ms",
    schema: positive,
    fallback: 60_000,
    doc: "A download that brings no byte for this long is retried, then fails.",
  },
  { key: "image.max_layer_bytes", schema: positive, fallback: 64 * 2 ** 30, doc: "Most uncompressed bytes of one layer." },
  { key: "image.max_layer_entries", schema: positive, fallback: 5_000_000, doc: "Most entries of one layer." },
  {
    key: "image.pinned",
    schema: v.array(v.string()),
    fallback: [],
    doc: "Names or globs of images that are never collected.",
    reloadable: true,
  },
  { key: "image.min_free_bytes", schema: natural, fallback: 64 * 2 ** 20, doc: "Pulls fail while the file system has less free space." },
  {
    key: "network.config_directory",
    schema: absolutePath,
    fallback: "/etc/cni/net.d",
    doc: "CNI configuration; the first file by name counts; watched.",
  },
  {
    key: "network.plugin_directories",
    schema: v.array(absolutePath),
    fallback: ["/opt/cni/bin", "/usr/lib/cni"],
    doc: "Where CNI plugins are found, in this order.",
  },
  {
    key: "network.namespace_directory",
    schema: absolutePath,
    fallback: "/var/run/netns",
    doc: "Where pods' network namespaces are pinned.",
  },
  { key: "network.cache_directory", schema: absolutePath, fallback: "/var/lib/cni", doc: "Passed on to plugins that keep data there." },
  { key: "network.plugin_timeout_ms", schema: positive, fallback: 60_000, doc: "A CNI plugin that runs longer is killed." },
  { key: "network.max_plugin_output_bytes", schema: positive, fallback: 1 << 20, doc: "A CNI plugin that prints more is killed." },
];

export const optionsByKey: ReadonlyMap<string, OptionSpec> = new Map(optionSpecs.map((spec) => [spec.key, spec]));
