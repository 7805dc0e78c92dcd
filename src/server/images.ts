/** The image service. */
import { encodeMessage, type ImageService as ImageRpcs, ImageStatusResponse } from "../../api/cri/service-definition.ts";
import type { ImageService } from "../image/types.ts";
import { authFromRequest, encodeImageItem, imageInfo, imageReference, imageToWire } from "./convert/image.ts";
import { filesystemToWire } from "./convert/stats.ts";
import { encodeList } from "./encoded-items.ts";
import type { Handlers } from "./interceptor.ts";
import { verboseInfo } from "./verbose-info.ts";

export function imageRpcs(images: ImageService): Handlers<typeof ImageRpcs> {
  return {
    ListImages: {
      handle: (_op, { filter }) => {
        const reference = filter?.image?.image ?? "";
        if (reference === "") return encodeList(images.list(), encodeImageItem);
        const found = images.find(reference);
        return encodeList(found === null ? [] : [found], encodeImageItem);
      },
    },
    ImageStatus: {
      // An absent image is an answer without an image, not an error.
      handle: (_op, { image, verbose }) => {
        const found = images.find(imageReference(image));
        if (found === null) return {};
        return encodeMessage(ImageStatusResponse, { image: imageToWire(found), info: verbose ? verboseInfo(imageInfo(found)) : {} });
      },
    },
    PullImage: {
      // The kubelet sets none either: a slow registry is the image domain's to judge, by progress.
      timeoutMs: () => null,
      handle: async (op, { image, auth }) => {
        const pulled = await images.pull(op, {
          reference: imageReference(image),
          auth: authFromRequest(auth),
          runtimeHandler: image?.runtimeHandler ?? "",
        });
        return { imageRef: pulled.id };
      },
    },
    RemoveImage: {
      handle: async (op, { image }) => {
        await images.remove(op, imageReference(image));
        return {};
      },
    },
    ImageFsInfo: {
      // No `container_filesystems`: writable layers are on the same file system, which is what its absence says.
      handle: () => ({ imageFilesystems: [filesystemToWire(images.usage())] }),
    },
  };
}
