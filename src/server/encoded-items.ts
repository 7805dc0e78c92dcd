/**
 * Encoded items of lists. A view is immutable, so its bytes are kept as long as the view itself; a list is a
 * concatenation, because protobuf reads two encodings of a message one after the other as their merged message.
 */
import { type Codec, encodeMessage } from "../../api/cri/service-definition.ts";

/** `convert` gives a response that holds nothing but the item for `view`. */
export function itemEncoder<View extends object, Response>(
  codec: Codec<unknown, Response>,
  convert: (view: View) => Response,
): (view: View) => Uint8Array {
  const cache = new WeakMap<View, Uint8Array>();
  return (view) => {
    const cached = cache.get(view);
    if (cached !== undefined) return cached;
    const encoded = encodeMessage(codec, convert(view));
    // A copy of its own size: the encoder's buffer may be a window of a larger one, which would be kept alive.
    const bytes = Buffer.allocUnsafeSlow(encoded.byteLength);
    encoded.copy(bytes);
    cache.set(view, bytes);
    return bytes;
  };
}

export function encodeList<View>(views: readonly View[], encode: (view: View) => Uint8Array): Uint8Array {
  return Buffer.concat(views.map(encode));
}
