/** Certificate, key and client CA of the streaming server, read again when a file changes. */
import { readFile, stat } from "node:fs/promises";
import { DomainError, toError } from "../base/errors.ts";

export interface TlsFiles {
  readonly certificate: string;
  readonly key: string;
  /** Empty: clients need no certificate. */
  readonly clientCa: string;
}

export interface TlsMaterial {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer | null;
  /** Changes whenever a file does. */
  readonly version: string;
}

/** Throws invalid-argument for what cannot be read, and for a key that everybody can read. */
export async function readTls(files: TlsFiles): Promise<TlsMaterial> {
  try {
    const { mode } = await stat(files.key);
    if ((mode & 0o007) !== 0) throw new DomainError("invalid-argument", `${files.key} is accessible to everybody: it must not be`);
    // Before the contents: a change in between is seen as one at the next look.
    const version = await versionOf(files);
    const [cert, key, ca] = await Promise.all([
      readFile(files.certificate),
      readFile(files.key),
      files.clientCa === "" ? null : readFile(files.clientCa),
    ]);
    return { cert, key, ca, version };
  } catch (error) {
    if (error instanceof DomainError) throw error;
    throw new DomainError("invalid-argument", `TLS of the streaming server: ${toError(error).message}`, { cause: error });
  }
}

/** Follows links, as a mounted secret is replaced by turning one. */
export async function versionOf(files: TlsFiles): Promise<string> {
  const paths = [files.certificate, files.key, ...(files.clientCa === "" ? [] : [files.clientCa])];
  const parts = await Promise.all(
    paths.map(async (path) => {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
      return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
    }),
  );
  return parts.join(" ");
}
