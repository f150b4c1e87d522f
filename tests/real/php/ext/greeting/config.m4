PHP_ARG_ENABLE([greeting], [whether to greet], [AS_HELP_STRING([--enable-greeting], [greet])], [yes])
if test "$PHP_GREETING" != "no"; then
  PHP_NEW_EXTENSION(greeting, greeting.c, $ext_shared)
fi
