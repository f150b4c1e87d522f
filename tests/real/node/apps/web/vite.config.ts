import { defineConfig } from "vite";

export default defineConfig({
  esbuild: { jsx: "automatic" },
  build: { outDir: "dist", sourcemap: true, rollupOptions: { output: { manualChunks: { react: ["react", "react-dom/client"] } } } },
});
