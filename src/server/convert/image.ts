/** Images: request → domain, domain → wire. */
import {
  type AuthConfig,
  type ImageInput,
  type ImageSpec,
  type Int64ValueInput,
  ListImagesResponse,
} from "../../../api/cri/service-definition.ts";
import type { ImageView, RegistryAuth } from "../../image/types.ts";
import { itemEncoder } from "../encoded-items.ts";
import { checkNoNul, nonEmpty, required } from "../validate.ts";
import { uint64FromNumber } from "./int64.ts";

/** The name of the image that a request is about. */
export function imageReference(given: ImageSpec | null): string {
  return checkNoNul(nonEmpty(required(given, "image").image, "image.image"), "image.image");
}

/** null where nothing is given: then the node's own credentials count. */
export function authFromRequest(auth: AuthConfig | null): RegistryAuth | null {
  if (auth === null) return null;
  const { username, password, auth: encoded, serverAddress, identityToken, registryToken } = auth;
  if (username === "" && password === "" && encoded === "" && identityToken === "" && registryToken === "") return null;
  return { username, password, auth: encoded, serverAddress, identityToken, registryToken };
}

/** The user of the image's configuration: `uid`, `name`, either with `:group`. A number that is no uid is neither. */
export function imageUser(user: string): { readonly uid: Int64ValueInput | null; readonly username: string } {
  const name = user.split(":", 1)[0] ?? "";
  if (!/^\d+$/.test(name)) return { uid: null, username: name };
  const uid = Number(name);
  return { uid: uid <= 0xffff_fffe ? { value: uid } : null, username: "" };
}

export function imageToWire(view: ImageView): ImageInput {
  return {
    id: view.id,
    repoTags: view.repoTags,
    repoDigests: view.repoDigests,
    size: uint64FromNumber(view.sizeBytes),
    ...imageUser(view.config.user),
    spec: { image: view.id },
    pinned: view.pinned,
  };
}

/** Bytes of a ListImagesResponse with this one item. */
export const encodeImageItem = itemEncoder(ListImagesResponse, (view: ImageView) => ({ images: [imageToWire(view)] }));

/** For verbose requests. Values of environment variables are left out, as for containers. */
export function imageInfo(view: ImageView): Record<string, unknown> {
  return {
    architecture: view.architecture,
    os: view.os,
    createdAt: view.createdAt,
    pulledAtNs: view.pulledAtNs,
    chainIds: view.chainIds,
    config: { ...view.config, env: view.config.env.map((entry) => entry.split("=", 1)[0]) },
  };
}
