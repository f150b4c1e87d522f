import { serve } from "@hono/node-server";
import { app } from "./app.js";

const port = Number(process.env.PORT ?? 3000);
const server = serve({ fetch: app.fetch, port, hostname: process.env.HOSTNAME_BIND ?? "0.0.0.0" }, () => {
  console.log(`listening on ${port} as ${process.getuid?.()}:${process.getgid?.()}`);
});
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => server.close(() => process.exit(0)));
}
