import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { price, type Product } from "@shop/shared";
import "./main.css";

function Shop() {
  const [product, setProduct] = useState<Product>();
  useEffect(() => {
    fetch("/api/products/1").then((response) => response.json()).then(setProduct);
  }, []);
  return <h1>{product ? `${product.name}: ${price(product)}` : import.meta.env.VITE_TITLE}</h1>;
}

createRoot(document.getElementById("root")!).render(<StrictMode><Shop /></StrictMode>);
