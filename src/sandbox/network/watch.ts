/**
 * Notices changes of the CNI configuration directory: inotify while the directory exists, and a slow poll that
 * finds it when it appears, is replaced, or when inotify is out of watches. Timers of its own, because it belongs
 * to no operation; none keeps the process alive.
 */
import { type FSWatcher, watch } from "node:fs";

export interface DirectoryWatch {
  close(): void;
}

export interface DirectoryWatchOptions {
  readonly pollMs: number;
  /** Several events of one write become one call. */
  readonly settleMs: number;
}

export function watchDirectory(
  directory: string,
  onChange: () => void,
  options: DirectoryWatchOptions = { pollMs: 5_000, settleMs: 50 },
): DirectoryWatch {
  let watcher: FSWatcher | null = null;
  let settle: NodeJS.Timeout | null = null;
  let closed = false;

  const changed = (): void => {
    if (closed || settle) return;
    settle = setTimeout(() => {
      settle = null;
      onChange();
    }, options.settleMs);
    settle.unref();
  };
  const disarm = (): void => {
    watcher?.close();
    watcher = null;
  };
  const arm = (): void => {
    if (watcher || closed) return;
    try {
      watcher = watch(directory, { persistent: false }, (event, name) => {
        changed();
        // The directory itself was moved or deleted: its inode says nothing any more.
        if (event === "rename" && name !== null && directory.endsWith(`/${name}`)) disarm();
      });
      watcher.on("error", () => {
        disarm();
        changed();
      });
    } catch {
      // Absent, or no watches left: the poll serves.
    }
  };

  arm();
  const poll = setInterval(() => {
    arm();
    onChange();
  }, options.pollMs);
  poll.unref();
  return {
    close() {
      closed = true;
      clearInterval(poll);
      if (settle) clearTimeout(settle);
      disarm();
    },
  };
}
