<?php
declare(strict_types=1);
require '/var/www/app/src/Guestbook.php';
$book = new Guestbook('/var/lib/guestbook/book.db');
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $book->sign(trim($_POST['name'] ?? ''));
}
$config = require '/srv/app/config.php';
$names = $book->names();
require '/srv/app/templates/book.php';
