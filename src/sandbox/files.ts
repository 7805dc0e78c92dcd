/**
 * Files that a pod's containers get: /etc/hosts, /etc/resolv.conf, /etc/hostname. (The kubelet mounts a hosts file
 * of its own over this one; other clients rely on it.)
 */
import { readFile } from "node:fs/promises";
import type { Kernel } from "../kernel/contract.ts";
import type { DnsConfig } from "./types.ts";

/** Containers read them under any user. */
const fileMode = 0o644;

export async function writePodFile(kernel: Pick<Kernel, "writeFileAtomic">, path: string, content: string): Promise<void> {
  await kernel.writeFileAtomic({ path, data: Buffer.from(content), mode: fileMode, durable: false });
}

/** The host's copy where the request says nothing; options as resolv.conf(5) writes them. */
export async function resolvConfContent(dns: DnsConfig | null): Promise<string> {
  if (!dns || dns.servers.length + dns.searches.length + dns.options.length === 0) return hostFile("/etc/resolv.conf");
  const lines = dns.servers.map((server) => `nameserver ${server}`);
  if (dns.searches.length > 0) lines.push(`search ${dns.searches.join(" ")}`);
  if (dns.options.length > 0) lines.push(`options ${dns.options.join(" ")}`);
  return `${lines.join("\n")}\n`;
}

/** Of a pod with the host's network. */
export function hostHostsContent(): Promise<string> {
  return hostFile("/etc/hosts");
}

/** Of a pod with a network of its own: what every host has, and the pod under its addresses. */
export function podHostsContent(hostname: string, ips: readonly string[]): string {
  const lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::\tip6-localnet", "ff00::\tip6-mcastprefix"];
  lines.push("ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters");
  for (const ip of ips) lines.push(`${ip}\t${hostname}`);
  return `${lines.join("\n")}\n`;
}

/** Absent is empty, as the C library takes it. */
async function hostFile(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}
