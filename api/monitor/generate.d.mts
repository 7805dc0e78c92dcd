import type { MessageSchema } from "./schema.ts";

export interface Schema {
  readonly protocolVersion: number;
  readonly maxFrameBytes: number;
  readonly messages: Readonly<Record<string, MessageSchema>>;
}

export function loadSchema(file?: string): Promise<Schema>;
/** Throws for a schema that contradicts itself. */
export function checkSchema(schema: { readonly protocolVersion: number; readonly maxFrameBytes: number; readonly messages: object }): void;
export function typescript(schema: Schema): string;
export function cpp(schema: Schema): string;
export function generate(directory: string): Promise<void>;
