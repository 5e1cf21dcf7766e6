"""A ResNet's weights into a BoTNet: what is loaded, and what stays fresh."""

import timm

import botvision

resnet = timm.create_model("resnet50")  # pretrained=True downloads weights
botnet = botvision.create_model("botnet50")
print(botvision.load_resnet(botnet, resnet.state_dict()))
