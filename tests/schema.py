"""Validates TOML files against a JSON Schema: a line for each file, `ok` or where it fails first."""
import json
import sys
import tomllib

import jsonschema

with open(sys.argv[1], "rb") as file:
    schema = json.load(file)
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
for line in sys.stdin:
    name = line.rstrip("\n")
    with open(name, "rb") as file:
        text = file.read().decode("utf-8-sig")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        print(f"{name}\tnot TOML: {error}")
        continue
    errors = sorted(validator.iter_errors(document), key=lambda error: error.json_path)
    print(f"{name}\t{errors[0].json_path}: {errors[0].message[:150]}" if errors else f"{name}\tok")
