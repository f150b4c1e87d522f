<!doctype html>
<title><?= htmlspecialchars($config['title']) ?></title>
<?php foreach ($names as $name): ?>
<p><?= htmlspecialchars(greeting($name)) ?></p>
<?php endforeach ?>
