/**
 * The image domain: references, registries, the store of layers, pull and remove. Owns everything below `<root>/images`,
 * `<root>/layers` and `<root>/content`. Imports state, kernel and config, and nothing above them.
 */
export { createImageService, type ImageServiceDependencies, type ManagedImageService } from "./service.ts";
export type * from "./types.ts";
