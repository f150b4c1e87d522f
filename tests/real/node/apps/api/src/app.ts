import { Hono } from "hono";
import { serveStatic } from "@hono/node-server/serve-static";
import { z } from "zod";
import { price, type Product } from "@shop/shared";

const products: Product[] = [
  { id: 1, name: "layer", cents: 1250 },
  { id: 2, name: "whiteout", cents: 99 },
];
const Id = z.coerce.number().int().positive();

export const app = new Hono();
app.get("/api/health", (c) => c.json({ status: "ok", node: process.version, env: process.env.NODE_ENV }));
app.get("/api/products/:id", (c) => {
  const id = Id.safeParse(c.req.param("id"));
  const product = products.find((one) => id.success && one.id === id.data);
  return product ? c.json({ ...product, price: price(product) }) : c.json({ error: "no such product" }, 404);
});
app.use("/*", serveStatic({ root: process.env.PUBLIC_DIR ?? "./public" }));
