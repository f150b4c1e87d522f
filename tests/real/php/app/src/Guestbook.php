<?php
declare(strict_types=1);

final class Guestbook
{
    private SQLite3 $db;

    public function __construct(string $file)
    {
        $this->db = new SQLite3($file);
        $this->db->enableExceptions(true);
        $this->db->exec('CREATE TABLE IF NOT EXISTS guests (name TEXT NOT NULL)');
    }

    public function sign(string $name): void
    {
        $insert = $this->db->prepare('INSERT INTO guests VALUES (:name)');
        $insert->bindValue(':name', mb_convert_case($name, MB_CASE_TITLE));
        $insert->execute();
    }

    /** @return list<string> */
    public function names(): array
    {
        $rows = $this->db->query('SELECT name FROM guests ORDER BY rowid');
        for ($names = []; $row = $rows->fetchArray(SQLITE3_ASSOC);) {
            $names[] = $row['name'];
        }
        return $names;
    }
}
