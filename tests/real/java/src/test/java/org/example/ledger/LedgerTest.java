package org.example.ledger;

public final class LedgerTest {
    public static void main(String[] args) {
        Ledger ledger = new Ledger();
        assert ledger.sum() == 0;
        ledger.add(new Ledger.Entry("a", 5));
        ledger.add(new Ledger.Entry("b", -2));
        assert ledger.sum() == 3;
        ledger.add(new Ledger.Entry("c", Long.MAX_VALUE));
        try {
            ledger.sum();
            throw new AssertionError("an overflow went unnoticed");
        } catch (ArithmeticException expected) {
            System.out.println("LedgerTest passed");
        }
    }
}
