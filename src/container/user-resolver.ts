/**
 * Users by image: a container's root starts out as its image's layers, so that `/etc/passwd` and `/etc/group` say the same
 * for each container of one image, and need to be read once.
 */
import type { ImageId } from "../base/ids.ts";
import type { FdHandle, Kernel } from "../kernel/contract.ts";
import { type ResolvedUser, readAccountFiles, resolveUser, type UserRequest } from "../oci/spec/user.ts";
import type { Operation } from "../operation/context.ts";

const maxCached = 256;

export class UserResolver {
  readonly #kernel: Pick<Kernel, "readInRoot">;
  readonly #known = new Map<string, ResolvedUser>();

  constructor(kernel: Pick<Kernel, "readInRoot">) {
    this.#kernel = kernel;
  }

  async resolve(op: Operation, imageId: ImageId, request: UserRequest, root: FdHandle): Promise<ResolvedUser> {
    const key = `${imageId} ${JSON.stringify(request)}`;
    const known = this.#known.get(key);
    if (known) return known;
    const user = resolveUser(request, await readAccountFiles(op, this.#kernel, root));
    if (this.#known.size >= maxCached) this.#known.clear();
    this.#known.set(key, user);
    return user;
  }
}
