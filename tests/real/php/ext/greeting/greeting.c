#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "php.h"

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_greeting, 0, 1, IS_STRING, 0)
	ZEND_ARG_TYPE_INFO(0, name, IS_STRING, 0)
ZEND_END_ARG_INFO()

/* The words with which someone is greeted. */
PHP_FUNCTION(greeting)
{
	char *name;
	size_t length;

	ZEND_PARSE_PARAMETERS_START(1, 1)
		Z_PARAM_STRING(name, length)
	ZEND_PARSE_PARAMETERS_END();
	RETURN_STR(strpprintf(0, "Welcome, %s!", name));
}

static const zend_function_entry functions[] = {
	PHP_FE(greeting, arginfo_greeting)
	PHP_FE_END
};

zend_module_entry greeting_module_entry = {
	STANDARD_MODULE_HEADER,
	"greeting",
	functions,
	NULL,
	NULL,
	NULL,
	NULL,
	NULL,
	"1.0",
	STANDARD_MODULE_PROPERTIES
};

ZEND_GET_MODULE(greeting)
