"""Holds the manifests of examples/kubernetes, and the pods that come of them, against the published schemas. Run by
.ci/dist/check."""

import glob
import shutil
import subprocess
import tempfile
import tomllib

import kubernetes_validate
import yaml
from cloudcoil.models.kyverno import v1 as kyverno

FOLDER = "examples/kubernetes"
VERSION = "1.37"


def read(name):
    with open(f"{FOLDER}/{name}") as file:
        return [document for document in yaml.safe_load_all(file) if document]


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


def main():
    # Every kind that a cluster knows by itself; a strict schema, so that a misspelt field is an error.
    for name in ["rules", "deployment", "jmeter", "namespace-policy", "namespace-policy-init-container", "daemonset"]:
        for document in read(f"{name}.yaml"):
            valid(document)
            for key, text in (document.get("data") or {}).items():
                tomllib.loads(text)
                check = ["target/tmp/dist/tar/bin/sockopt", "check"]
                with tempfile.NamedTemporaryFile("w", suffix=key) as file:
                    file.write(text)
                    file.flush()
                    subprocess.run([*check, file.name], check=True, capture_output=True)

    # What comes of them by Kubernetes' own code and by kubectl (tests/kubernetes.rs holds these files equal to it).
    outcomes = sorted(glob.glob("tests/fixtures/kubernetes/**/*.yaml", recursive=True))
    assert outcomes
    for outcome in outcomes:
        with open(outcome) as file:
            for document in yaml.safe_load_all(file):
                valid(document)

    [document] = read("namespace-kyverno.yaml")
    parsed = kyverno.ClusterPolicy.model_validate(document)
    known(document, parsed.model_dump(by_alias=True, exclude_unset=True, mode="json"))
    [policy] = document["spec"]["rules"]
    [patch] = read("patch-init-container.yaml")
    ours, kyvernos = (each["spec"] for each in (patch["spec"]["template"], policy["mutate"]["patchStrategicMerge"]))
    for inits in (ours, kyvernos):
        inits["initContainers"][0].pop("resources", None)
    assert ours["initContainers"] == kyvernos["initContainers"], "both bring the library in the same way"
    assert ours["volumes"] == kyvernos["volumes"]

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
    looked = {"rules", "deployment", "jmeter", "namespace-policy", "namespace-policy-init-container", "namespace-kyverno"}
    looked |= {"patch-init-container", "patch-image-volume", "kustomization", "daemonset"}
    assert {file.split("/")[-1].removesuffix(".yaml") for file in glob.glob(f"{FOLDER}/*.yaml")} == looked


main()
