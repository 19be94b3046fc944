<?php
// A front controller: what is no file comes here.
session_start();
$_SESSION["visits"] = ($_SESSION["visits"] ?? 0) + 1;
echo "front ", $_SERVER["REQUEST_URI"], " visit ", $_SESSION["visits"];
