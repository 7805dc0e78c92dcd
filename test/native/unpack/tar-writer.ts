/** Tar archives byte by byte, hostile ones too: nothing here corrects what a test asks for. */

export interface TarEntry {
  readonly name: string;
  /** Type flag: "0" file, "1" hard link, "2" symbolic link, "3" character, "4" block device, "5" directory, "6" FIFO. */
  readonly type?: string;
  readonly data?: Buffer | string;
  readonly link?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly major?: number;
  readonly minor?: number;
  /** Records of a PAX extended header before the entry. */
  readonly pax?: Readonly<Record<string, string | Buffer>>;
  /** The size field's bytes, where they are not the data's length. */
  readonly rawSize?: string;
  /** Prefix field; the name stays in its own. */
  readonly prefix?: string;
  /** `ustar\0` + `00`, or GNU's `ustar  \0`. */
  readonly gnu?: boolean;
}

const block = 512;

export function tar(entries: readonly TarEntry[], options: { readonly end?: boolean } = {}): Buffer {
  const parts = entries.flatMap((entry) => [...(entry.pax ? [paxHeader(entry.pax)] : []), tarEntry(entry)]);
  if (options.end !== false) parts.push(Buffer.alloc(2 * block));
  return Buffer.concat(parts);
}

export function tarEntry(entry: TarEntry): Buffer {
  const type = entry.type ?? "0";
  const data = Buffer.from(entry.data ?? "");
  const header = Buffer.alloc(block);
  const text = (value: string, offset: number, length: number): void => {
    Buffer.from(value, "utf8").copy(header, offset, 0, length);
  };
  const octal = (value: number, offset: number, length: number): void =>
    text(`${value.toString(8).padStart(length - 1, "0")}\0`, offset, length);
  text(entry.name, 0, 100);
  octal(entry.mode ?? (type === "5" ? 0o755 : 0o644), 100, 8);
  octal(entry.uid ?? 0, 108, 8);
  octal(entry.gid ?? 0, 116, 8);
  if (entry.rawSize === undefined) octal(data.length, 124, 12);
  else Buffer.from(entry.rawSize, "latin1").copy(header, 124, 0, 12);
  octal(entry.mtime ?? 1_000_000_000, 136, 12);
  text(type, 156, 1);
  text(entry.link ?? "", 157, 100);
  text(entry.gnu ? "ustar  \0" : "ustar\u000000", 257, 8);
  octal(entry.major ?? 0, 329, 8);
  octal(entry.minor ?? 0, 337, 8);
  text(entry.prefix ?? "", 345, 155);
  header.fill(" ", 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  text(`${sum.toString(8).padStart(6, "0")}\0 `, 148, 8);
  return Buffer.concat([header, data, Buffer.alloc((block - (data.length % block)) % block)]);
}

export function paxHeader(records: Readonly<Record<string, string | Buffer>>, type = "x"): Buffer {
  const body = Buffer.concat(Object.entries(records).map(([key, value]) => paxRecord(key, Buffer.from(value))));
  return tarEntry({ name: "PaxHeaders/x", type, data: body });
}

/** `<length> <key>=<value>\n`, the length counting itself. */
export function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from("\n")]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** GNU's long name ("L") or long link ("K") before an entry. */
export function gnuLong(type: "L" | "K", name: string): Buffer {
  return tarEntry({ name: "././@LongLink", type, data: `${name}\0`, gnu: true });
}

export const end: Buffer = Buffer.alloc(2 * block);
