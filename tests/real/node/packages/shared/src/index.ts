export interface Product {
  id: number;
  name: string;
  cents: number;
}

export function price(product: Product): string {
  return `€${(product.cents / 100).toFixed(2)}`;
}
