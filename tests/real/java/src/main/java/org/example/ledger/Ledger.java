package org.example.ledger;

import java.util.ArrayList;
import java.util.List;

/** Amounts, and what they add up to. */
public final class Ledger {
    /** One amount in cents. */
    public record Entry(String text, long cents) {}

    private final List<Entry> entries = new ArrayList<>();

    public synchronized void add(Entry entry) {
        entries.add(entry);
    }

    public synchronized long sum() {
        return entries.stream().mapToLong(Entry::cents).reduce(0, Math::addExact);
    }
}
