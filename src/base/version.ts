/** The version of this build. `berthVersion` is set by the bundler from package.json; from sources it is `dev`. */
declare const BERTH_VERSION: string | undefined;

export const berthVersion: string = typeof BERTH_VERSION === "string" ? BERTH_VERSION : "0.0.0-dev";
