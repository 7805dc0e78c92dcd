/** A tar of given entries, made by hand: header fields as in pax(1)'s ustar format. */
export function tarOf(entries: readonly TarEntry[]): Buffer {
  const blocks = entries.flatMap((entry) => {
    const data = entry.data ?? Buffer.alloc(0);
    const header = Buffer.alloc(512);
    const octal = (value: number, offset: number, length: number): void => {
      header.write(`${value.toString(8).padStart(length - 1, "0")}\0`, offset, "latin1");
    };
    header.write(entry.name, 0, "utf8");
    octal(entry.mode ?? 0o644, 100, 8);
    octal(entry.uid ?? 0, 108, 8);
    octal(entry.gid ?? 0, 116, 8);
    octal(data.length, 124, 12);
    octal(1_700_000_000, 136, 12);
    header.write(entry.type ?? "0", 156, "latin1");
    header.write(entry.link ?? "", 157, "utf8");
    header.write("ustar\0", 257, "latin1");
    header.write("00", 263, "latin1");
    octal(entry.major ?? 0, 329, 8);
    octal(entry.minor ?? 0, 337, 8);
    header.write("        ", 148, "latin1");
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
    const pad = Buffer.alloc((512 - (data.length % 512)) % 512);
    const pax = entry.pax ? [paxHeader(entry.pax)] : [];
    return [...pax, header, data, pad];
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

export interface TarEntry {
  readonly name: string;
  readonly type?: "0" | "1" | "2" | "3" | "4" | "5" | "6" | "x";
  readonly data?: Buffer;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly link?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly pax?: Readonly<Record<string, Buffer>>;
}

function paxHeader(records: Readonly<Record<string, Buffer>>): Buffer {
  const lines = Object.entries(records).map(([key, value]) => {
    const rest = key.length + value.length + 3;
    let length = rest + String(rest).length;
    if (String(length).length !== String(rest).length) length = rest + String(length).length;
    return Buffer.concat([Buffer.from(`${length} ${key}=`), value, Buffer.from("\n")]);
  });
  return tarOf([{ name: "pax", type: "x", data: Buffer.concat(lines) }]).subarray(0, -1024);
}
