"""Holds the manifests of examples/kubernetes against the published schemas, and applies what they are to change:
the patches as kubectl would, the policy's expression as the API server would. Run by .ci/dist/check."""

import copy
import glob
import re
import subprocess
import shutil
import tempfile
import tomllib

import celpy
import kubernetes_validate
import yaml
from cloudcoil.models.kyverno import v1 as kyverno

FOLDER = "examples/kubernetes"
VERSION = "1.37"
# What lists of a pod are merged by (the API's x-kubernetes-patch-merge-key); others are replaced.
KEYS = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}


def read(name):
    with open(f"{FOLDER}/{name}") as file:
        return [document for document in yaml.safe_load_all(file) if document]


def merged(old, new, field=None):
    """A strategic merge; server-side apply does the same with what is used here."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: merged(old.get(key), value, key) for key, value in new.items()}}
    if isinstance(new, list) and isinstance(old, list) and field in KEYS:
        key = KEYS[field]
        known = {entry[key]: entry for entry in old}
        for entry in new:
            known[entry[key]] = merged(known.get(entry[key]), entry)
        return list(known.values())
    return copy.deepcopy(new)


def known(document, understood, where="ClusterPolicy"):
    """The model passes over a field that it does not know."""
    if isinstance(document, dict):
        for key, value in document.items():
            assert key in understood, f"{where} has no field {key}"
            known(value, understood[key], f"{where}.{key}")
    elif isinstance(document, list):
        for entry, other in zip(document, understood, strict=True):
            known(entry, other, where)


def valid(document):
    kubernetes_validate.validate(document, VERSION, strict=True)


def injected(template, before):
    """The pod has the library, and the rest is as it was."""
    pod, was = template["spec"], before["spec"]
    container, first = pod["containers"][0], was["containers"][0]
    path = next(entry["value"] for entry in container["env"] if entry["name"] == "LD_PRELOAD")
    mount = next(entry for entry in container["volumeMounts"] if path.startswith(entry["mountPath"] + "/"))
    assert mount["readOnly"] and mount["name"] in [volume["name"] for volume in pod["volumes"]]
    assert all(entry in container["env"] for entry in first["env"])
    assert all(entry in container["volumeMounts"] for entry in first["volumeMounts"])
    assert all(entry in pod["volumes"] for entry in was["volumes"])
    assert container["image"] == first["image"]


def evaluated(expression, pod):
    """The policy's expression over a pod: its objects are maps to CEL."""
    maps = re.sub(r"Object[.\w]*\{", "{", expression)
    maps = re.sub(r"(?<=[{,\s])(\w+):(?=\s)", r'"\1":', maps)
    environment = celpy.Environment()
    program = environment.program(environment.compile(maps))
    return plain(program.evaluate({"object": celpy.json_to_cel(pod)}))


def plain(value):
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, celpy.celtypes.BoolType):
        return bool(value)
    return int(value) if isinstance(value, int) else str(value)


def main():
    # Every kind that a cluster knows by itself; a strict schema, so that a misspelt field is an error.
    for name in ["rules", "deployment", "jmeter", "namespace-policy", "daemonset"]:
        for document in read(f"{name}.yaml"):
            valid(document)
            for key, text in (document.get("data") or {}).items():
                tomllib.loads(text)
                check = ["target/tmp/dist/tar/bin/sockopt", "check"]
                with tempfile.NamedTemporaryFile("w", suffix=key) as file:
                    file.write(text)
                    file.flush()
                    subprocess.run([*check, file.name], check=True, capture_output=True)

    [deployment] = read("deployment.yaml")
    for patch in ["patch-init-container.yaml", "patch-image-volume.yaml"]:
        result = merged(deployment, *read(patch))
        valid(result)
        injected(result["spec"]["template"], deployment["spec"]["template"])
        # Where there is a kubectl it is asked as well.
        if shutil.which("kubectl"):
            asked = ["kubectl", "patch", "--local", "-o", "yaml", "-f", f"{FOLDER}/deployment.yaml"]
            asked = subprocess.run([*asked, "--patch-file", f"{FOLDER}/{patch}"], check=True, capture_output=True).stdout
            injected(yaml.safe_load(asked)["spec"]["template"], deployment["spec"]["template"])

    policy, _ = read("namespace-policy.yaml")
    [mutation] = policy["spec"]["mutations"]
    expression = mutation["applyConfiguration"]["expression"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "orders"}}
    pod["spec"] = copy.deepcopy(deployment["spec"]["template"]["spec"])
    other = {"name": "other", "image": "other", "env": [{"name": "LD_PRELOAD", "value": "/its/own.so"}]}
    pod["spec"]["containers"].append(other)
    bare = {"name": "bare", "image": "bare"}
    pod["spec"]["containers"].append(bare)
    result = merged(pod, evaluated(expression, pod))
    valid(result)
    injected(result, pod)
    assert result["spec"]["containers"][1] == other, "a container with an LD_PRELOAD of its own is left alone"
    assert [entry["name"] for entry in result["spec"]["containers"][2]["env"]] == ["LD_PRELOAD"]
    conditions = [condition["expression"] for condition in policy["spec"]["matchConditions"]]
    assert all(evaluated(condition, pod) for condition in conditions)
    assert not all(evaluated(condition, result) for condition in conditions), "a pod is changed once"

    [document] = read("namespace-kyverno.yaml")
    parsed = kyverno.ClusterPolicy.model_validate(document)
    known(document, parsed.model_dump(by_alias=True, exclude_unset=True, mode="json"))
    patch = document["spec"]["rules"][0]["mutate"]["patchStrategicMerge"]
    [wanted] = patch["spec"]["containers"]
    assert wanted.pop("(name)") == "*"
    patch["spec"]["containers"] = [{"name": "orders", **wanted}]
    by_kyverno = merged(pod, patch)
    valid(by_kyverno)
    injected(by_kyverno, pod)
    assert by_kyverno["spec"]["initContainers"] == result["spec"]["initContainers"], "both engines do the same"

    daemon_set = next(document for document in read("daemonset.yaml") if document["kind"] == "DaemonSet")
    [agent] = daemon_set["spec"]["template"]["spec"]["containers"]
    volumes = {volume["name"] for volume in daemon_set["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in agent["volumeMounts"]} == volumes
    command = "target/tmp/dist/tar/bin/sockopt"
    # Their words are understood: here there is no file of rules, and no control group of pods.
    for words, code, said in [
        (agent["command"], 78, "/etc/sockopt/sockopt.toml"),
        (agent["readinessProbe"]["exec"]["command"], 1, "kubepods"),
    ]:
        asked = subprocess.run([command, *words[1:]], capture_output=True, text=True, timeout=60)
        assert asked.returncode == code and said in asked.stderr, asked
    # Where there is a kubectl it is asked as well.
    if shutil.which("kubectl"):
        asked = ["kubectl", "label", "--local", "-o", "yaml", "-f", f"{FOLDER}/daemonset.yaml", "some=label"]
        subprocess.run(asked, check=True, capture_output=True)

    # Whatever is there is looked at above.
    looked = {"rules", "deployment", "jmeter", "namespace-policy", "namespace-kyverno", "daemonset"}
    looked |= {"patch-init-container", "patch-image-volume"}
    assert {file.split("/")[-1].removesuffix(".yaml") for file in glob.glob(f"{FOLDER}/*.yaml")} == looked


main()
